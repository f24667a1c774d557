"""The primary CNI's list changes, as by k3s, Calico and Cilium: the next pods are enrolled and get the new primary network."""

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
    """Restore the cluster's own primary CNI after each test."""
    yield
    for path in cluster.machine.files(CNI_CONF):
        if path.name not in ("00-tailscale-cni.conflist", PRIMARY_FILE):
            path.unlink()
    cluster.write_primary(PRIMARY)
    heard_of(cluster, PRIMARY)


def test_rewritten_with_another_subnet(cluster: Cluster, control: ControlPlane) -> None:
    """If the primary CNI's installer writes its list with another subnet, the next pod is enrolled and has an address of that subnet."""
    changed = Primary(PRIMARY.name, "10.98.0.0/24", "cni2")
    cluster.write_primary(changed)
    heard_of(cluster, changed)
    assert_next_pod_is_enrolled(cluster, control, changed)


def test_rewritten_as_it_was(cluster: Cluster, control: ControlPlane) -> None:
    """If the primary CNI's installer writes the same list again, as it does at every start, the next pod is enrolled."""
    cluster.write_primary(PRIMARY)
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_renamed(cluster: Cluster, control: ControlPlane) -> None:
    """If the primary CNI's list gets another file name, the next pod is enrolled."""
    conf = cluster.machine.root / CNI_CONF.lstrip("/")
    (conf / PRIMARY_FILE).rename(conf / "05-renamed.conflist")
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_broken(cluster: Cluster, control: ControlPlane) -> None:
    """If the primary CNI's list cannot be parsed, the next pod is enrolled and is on the previous network."""
    cluster.machine.write(
        f"{CNI_CONF}/{PRIMARY_FILE}", '{"cniVersion": "1.0.0", "name": "net1", "plugins": ['
    )
    assert_next_pod_is_enrolled(cluster, control, PRIMARY)


def test_replaced_by_another_network(cluster: Cluster, control: ControlPlane) -> None:
    """If another primary CNI replaces the first, the next pod is enrolled and is on the new network."""
    cluster.write_primary(OTHER, "20-other.conflist")
    (cluster.machine.root / CNI_CONF.lstrip("/") / PRIMARY_FILE).unlink()
    heard_of(cluster, OTHER)  # a late DEL also updates the list, unseen by an ADD that runs
    assert_next_pod_is_enrolled(cluster, control, OTHER)


def test_pod_of_the_old_network_leaves_nothing(cluster: Cluster, control: ControlPlane) -> None:
    """A pod that was added on a network with another name is a node until the pod is deleted, but not longer."""
    with Pod(cluster, "resident", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("resident"), what="the node resident")
        cluster.write_primary(OTHER)
        heard_of(cluster, OTHER)
        pod.delete()
        wait_until(lambda: not control.node("resident"), what="the end of the node resident")


def heard_of(cluster: Cluster, primary: Primary) -> None:
    """Wait until the plugin's list has the current primary CNI: containerd 2 calls STATUS, 1.6 calls only when a pod starts or ends."""
    if cluster.runtime.asks_status:
        in_step(cluster, primary)
        return
    with Pod(cluster, "messenger") as pod:
        pod.ready()
        in_step(cluster, primary)


def in_step(cluster: Cluster, primary: Primary) -> None:
    """Wait until the plugin's list begins with the primary CNI's plugin."""
    ours = cluster.machine.root / CNI_CONF.lstrip("/") / "00-tailscale-cni.conflist"
    wait_until(lambda: json.loads(ours.read_text())["plugins"][0] == primary.plugin, what="our list in step")


def assert_next_pod_is_enrolled(cluster: Cluster, control: ControlPlane, primary: Primary) -> None:
    """Start a pod, and assert that it is a node and that its Kubernetes address is of the network."""
    with Pod(cluster, "newcomer", {ENABLED: "true"}) as pod:
        pod.ready()
        assert ipaddress.ip_address(pod.address) in ipaddress.ip_network(primary.subnet)
        assert wait_until(lambda: control.node("newcomer"), what="the node newcomer")
    wait_until(lambda: not control.node("newcomer"), what="the end of the node newcomer")
