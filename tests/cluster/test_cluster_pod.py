"""What a pod of a real kubelet gains, keeps, and leaves behind."""

from __future__ import annotations

import ipaddress

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.peer import Peer
from tests.kit.wait import wait_until

from .cluster import Cluster
from .enrolment import settled, traces
from .pods import ENABLED, Pod

POD_SUBNET = ipaddress.ip_network("10.88.0.0/24")


def test_annotated_pod_is_a_tailscale_node(cluster: Cluster, control: ControlPlane, peer: Peer) -> None:
    """A pod with one annotation has ts0 with the tailnet addresses of its node, and a peer opens its page by name."""
    with Pod(cluster, "web", {ENABLED: "true"}) as pod:
        pod.ready()
        node = wait_until(lambda: control.node("web"), what="the node web")
        assert set(node["addresses"]) <= set(pod.interface("ts0").addresses)
        assert peer.fetch(f"http://web.{control.domain}/") == "hello from web"


def test_kubernetes_sees_the_primary_address_only(cluster: Cluster) -> None:
    """The address of an enrolled pod's status is the primary CNI's, and the only one."""
    with Pod(cluster, "addressed", {ENABLED: "true"}) as pod:
        status = pod.ready().get()["status"]
        assert ipaddress.ip_address(status["podIP"]) in POD_SUBNET
        assert status["podIPs"] == [{"ip": status["podIP"]}]
        assert status["podIP"] in pod.interface("eth0").addresses


def test_pod_without_annotation_is_untouched(cluster: Cluster, control: ControlPlane) -> None:
    """A pod that asks for nothing has the primary CNI's interfaces, rules and routes, and no more; nothing runs for it."""
    nodes = {node["name"] for node in control.nodes()}
    with Pod(cluster, "plain") as pod:
        pod.ready()
        assert pod.netns.links() == {"lo", "eth0"}
        assert [rule.split(":")[0] for rule in pod.netns.rules()] == ["0", "32766", "32767", "0", "32766"]
        assert not [command for command in cluster.machine.processes().values() if "supervisor" in command]
        assert {node["name"] for node in control.nodes()} == nodes


def test_kubelet_probe_reaches_an_enrolled_pod(cluster: Cluster) -> None:
    """kubelet's HTTP readiness probe, from the host to the pod's own address, succeeds on an enrolled pod."""
    with Pod(cluster, "probed", {ENABLED: "true"}) as pod:
        assert cluster.condition("pod", pod.ready().name, "Ready") == "True"


def test_probe_from_a_host_with_a_tailnet_address(cluster: Cluster) -> None:
    """The probe arrives also where the host's own address, and so the probe's source, is a tailnet address."""
    host = cluster.machine.netns
    with Pod(cluster, "before") as pod:
        pod.ready()  # so that the bridge is there
    route = ("10.88.0.0/24", "dev", "cni0")
    host.run("ip", "address", "add", "100.101.102.103/32", "dev", "lo")
    host.run("ip", "route", "replace", *route, "src", "100.101.102.103")
    try:
        with Pod(cluster, "tailnet-host", {ENABLED: "true"}) as pod:
            pod.ready()
            assert host.ip("route", "get", pod.address)[0]["prefsrc"] == "100.101.102.103"
    finally:
        host.run("ip", "route", "replace", *route, "src", "10.88.0.1")
        host.run("ip", "address", "del", "100.101.102.103/32", "dev", "lo")


@pytest.mark.parametrize("how", [(), ("--force", "--grace-period=0")], ids=["graceful", "forced"])
def test_deleted_pod_leaves_nothing(cluster: Cluster, control: ControlPlane, how: tuple[str, ...]) -> None:
    """After `kubectl delete pod`, also by force, the host and the tailnet are as they were before the pod."""
    with Pod(cluster, "first", {ENABLED: "true"}) as pod:
        pod.ready()
    before = settled(cluster, control)
    with Pod(cluster, "short-lived", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("short-lived"), what="the node short-lived")
        pod.delete(*how)
        wait_until(lambda: traces(cluster, control) <= before, 60, what="no trace of the pod")


def test_refused_annotation_is_told_by_kubelet(cluster: Cluster) -> None:
    """A value that cannot be is in the pod's events, with the annotation's name and what was expected of it."""
    with Pod(cluster, "wrong", {ENABLED: "maybe"}) as pod:
        message = wait_until(lambda: pod.events("FailedCreatePodSandBox"), 60, what="an event")[0]
        assert ENABLED in message
        assert "maybe" in message
