"""The primary CNI's list changes under us, as k3s, Calico and Cilium do it: the next pods are enrolled and on the network of now."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.wait import wait_until

from .cluster import CNI_CONF, PRIMARY, PRIMARY_FILE, Cluster, Primary
from .pods import ENABLED, Pod

OTHER = Primary("net2", "10.99.0.0/24", "cni1")


@pytest.fixture(autouse=True)
def primary(cluster: Cluster) -> Iterator[None]:
    """Each test finds the cluster's own network, and leaves it."""
    yield
    for path in cluster.machine.files(CNI_CONF):
        if path.name not in ("00-tailscale-cni.conflist", PRIMARY_FILE):
            path.unlink()
    cluster.write_primary(PRIMARY)
    heard_of(cluster, PRIMARY)


def test_rewritten_with_another_subnet(cluster: Cluster, control: ControlPlane) -> None:
    """The primary's installer writes its list anew, with another subnet."""
    changed = Primary(PRIMARY.name, "10.98.0.0/24", "cni2")
    cluster.write_primary(changed)
    heard_of(cluster, changed)
    assert_next_pod_is_enrolled(cluster, control, changed)


def test_rewritten_as_it_was(cluster: Cluster, control: ControlPlane) -> None:
    """The primary's installer writes its list anew, as at every start: nobody is dropped."""
    cluster.write_primary(PRIMARY)
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_renamed(cluster: Cluster, control: ControlPlane) -> None:
    """The primary's list gets another file name."""
    conf = cluster.machine.root / CNI_CONF.lstrip("/")
    (conf / PRIMARY_FILE).rename(conf / "05-renamed.conflist")
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_broken(cluster: Cluster, control: ControlPlane) -> None:
    """A list that cannot be read keeps the network that there was."""
    cluster.machine.write(
        f"{CNI_CONF}/{PRIMARY_FILE}", '{"cniVersion": "1.0.0", "name": "net1", "plugins": ['
    )
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_replaced_by_another_network(cluster: Cluster, control: ControlPlane) -> None:
    """The primary is uninstalled, and another one takes its place."""
    cluster.write_primary(OTHER, "20-other.conflist")
    (cluster.machine.root / CNI_CONF.lstrip("/") / PRIMARY_FILE).unlink()
    heard_of(cluster, OTHER)  # a late DEL renews our list, too, which the ADD under way cannot see
    assert_next_pod_is_enrolled(cluster, control, OTHER)


def test_pod_of_the_old_network_leaves_nothing(cluster: Cluster, control: ControlPlane) -> None:
    """A pod that was added on a network with another name is a node until it is deleted, and no longer."""
    with Pod(cluster, "resident", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("resident"), what="the node resident")
        cluster.write_primary(OTHER)
        heard_of(cluster, OTHER)
        pod.delete()
        wait_until(lambda: not control.node("resident"), what="the end of the node resident")


def heard_of(cluster: Cluster, primary: Primary) -> None:
    """Wait until our list is the primary's of now: containerd 2 asks for our STATUS, 1.6 calls us when a pod comes or goes."""
    if cluster.runtime.asks_status:
        in_step(cluster, primary)
        return
    with Pod(cluster, "messenger") as pod:
        pod.ready()
        in_step(cluster, primary)


def in_step(cluster: Cluster, primary: Primary) -> None:
    """Returns when our list begins with the primary's plugin."""
    ours = cluster.machine.root / CNI_CONF.lstrip("/") / "00-tailscale-cni.conflist"
    wait_until(lambda: json.loads(ours.read_text())["plugins"][0] == primary.plugin, what="our list in step")


def assert_next_pod_is_enrolled(cluster: Cluster, control: ControlPlane, primary: Primary) -> None:
    """The next pod is a node, and its Kubernetes address is of that network."""
    with Pod(cluster, "newcomer", {ENABLED: "true"}) as pod:
        pod.ready()
        assert ipaddress.ip_address(pod.address) in ipaddress.ip_network(primary.subnet)
        assert wait_until(lambda: control.node("newcomer"), what="the node newcomer")
    wait_until(lambda: not control.node("newcomer"), what="the end of the node newcomer")
