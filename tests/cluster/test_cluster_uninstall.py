"""The effects of `uninstall`, and of a second `install`, on the pods of a real kubelet."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.wait import wait_until

from .cluster import CNI_CONF, PRIMARY, PRIMARY_FILE, Cluster
from .enrolment import PLUGIN, command, helpers, install
from .pods import ENABLED, Pod


@pytest.fixture(autouse=True)
def installed_again(cluster: Cluster, control: ControlPlane) -> Iterator[None]:
    """Install the plugin again after each test."""
    yield
    install(cluster, control)


def test_uninstall_falls_back_to_the_primary(cluster: Cluster, control: ControlPlane) -> None:
    """After `uninstall` nothing of the plugin is on the host, annotated pods start without a node, and the next `install` lists them."""
    command(cluster, "uninstall")
    assert [path.name for path in cluster.machine.files(CNI_CONF)] == [PRIMARY_FILE]
    assert not (cluster.machine.root / PLUGIN.lstrip("/")).exists()
    with Pod(cluster, "ordinary", {ENABLED: "true"}) as pod:
        pod.ready()
        assert pod.netns.links() == {"lo", "eth0"}
        assert ipaddress.ip_address(pod.address) in ipaddress.ip_network(PRIMARY.subnet)
        assert "restart these pods to make them nodes: default/ordinary\n" in install(cluster, control)
    assert not control.node("ordinary")


def test_second_install_disturbs_no_pod(cluster: Cluster, control: ControlPlane) -> None:
    """A second `install` does not disturb running nodes, and the next pod is enrolled."""
    with Pod(cluster, "resident", {ENABLED: "true"}) as pod:
        pod.ready()
        node = wait_until(lambda: control.node("resident"), what="the node resident")
        workers = helpers(cluster)
        install(cluster, control)
        assert helpers(cluster) == workers
        with Pod(cluster, "newcomer", {ENABLED: "true"}) as newcomer:
            newcomer.ready()
            wait_until(lambda: control.node("newcomer"), what="the node newcomer")
        found = control.node("resident")
        assert found
        assert found["nodeKey"] == node["nodeKey"]
