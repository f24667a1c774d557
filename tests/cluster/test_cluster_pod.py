"""What an enrolled pod of a real kubelet gets, keeps, and leaves behind."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.peer import Peer
from tests.kit.traffic import fetch
from tests.kit.wait import wait_until

from .cluster import PRIMARY, Cluster
from .enrolment import command, helpers, traces, traces_after
from .pods import ENABLED, Deployment, Pod


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[Pod]:
    """A pod with one annotation, which is Ready by kubelet's HTTP probe."""
    with Pod(cluster, "web", {ENABLED: "true"}) as pod:
        yield pod.ready()


def test_annotated_pod_is_a_tailscale_node(web: Pod, control: ControlPlane, peer: Peer) -> None:
    """A pod with one annotation has ts0 with its node's tailnet addresses, and a peer fetches the pod's page by name."""
    node = wait_until(lambda: control.node("web"), what="the node web")
    assert node["tags"] == ["tag:k8s-pod"]
    wait_until(lambda: set(node["addresses"]) <= set(web.interface("ts0").addresses), what="ts0's addresses")
    assert peer.fetch(f"http://web.{control.domain}/") == "hello from web"


def test_kubernetes_sees_the_primary_address_only(web: Pod) -> None:
    """The status of an enrolled pod has the primary CNI's address, and no other one."""
    status = web.get()["status"]
    assert ipaddress.ip_address(status["podIP"]) in ipaddress.ip_network(PRIMARY.subnet)
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["podIP"] in web.interface("eth0").addresses


def test_kubelet_probe_reaches_an_enrolled_pod(web: Pod, cluster: Cluster) -> None:
    """kubelet's HTTP probe, which goes from the host to the pod's primary address, succeeds also once the pod is in the tailnet."""
    assert cluster.condition("pod", web.name, "Ready") == "True"
    assert web.exec("wget", "-qO-", f"http://{web.address}/").strip() == "hello from web"
    assert fetch(cluster.machine.netns, f"http://{web.address}/") == "hello from web"


def test_status_command_shows_the_pod(web: Pod, cluster: Cluster, control: ControlPlane) -> None:
    """`tailscale-cni status` shows the pod, its node's name, and that the node is Running."""
    wait_until(lambda: control.node("web"), what="the node web")
    words = command(cluster, "status").splitlines()[1].split()
    assert words[:3] == ["default", web.name, f"web.{control.domain}"]
    assert "Running" in words


def test_replicas_are_named_after_their_deployment(cluster: Cluster, control: ControlPlane) -> None:
    """Pods of a Deployment that start at the same time become different nodes, named after it without hash, suffix and kind."""
    with Deployment(cluster, "plex-deployment", 3, {ENABLED: "true"}):
        nodes = wait_until(lambda: named(control, "plex", 3), what="three nodes")
        assert {node["name"] for node in nodes} == {"plex", "plex-1", "plex-2"}
        assert len({address for node in nodes for address in node["addresses"]}) == 6
    wait_until(lambda: not control.node("plex"), what="the end of the nodes")


def test_pod_without_annotation_is_untouched(cluster: Cluster, control: ControlPlane) -> None:
    """A pod without annotations has only the primary CNI's interfaces, rules and routes, and no process runs for it."""
    nodes = {node["name"] for node in control.nodes()}
    before = helpers(cluster)
    with Pod(cluster, "plain") as pod:
        pod.ready()
        assert pod.netns.links() == {"lo", "eth0"}
        assert [rule.split(":")[0] for rule in pod.netns.rules()] == ["0", "32766", "32767", "0", "32766"]
        assert helpers(cluster) == before
        assert {node["name"] for node in control.nodes()} == nodes


def test_probe_from_a_host_with_a_tailnet_address(cluster: Cluster) -> None:
    """kubelet's probe reaches the pod also if the host's address, from which the probe comes, is a tailnet address."""
    host = cluster.machine.netns
    with Pod(cluster, "before") as pod:
        pod.ready()  # creates the bridge
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
    """After `kubectl delete pod`, also with --force, the host and the tailnet are as before the pod."""
    with Pod(cluster, "first", {ENABLED: "true"}) as first:
        first.ready()
    before = traces_after(cluster, control, first.uid)
    with Pod(cluster, "short-lived", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("short-lived"), what="the node short-lived")
        there = {trace.split()[0] for trace in traces(cluster, control) - before}
        assert there >= {"process", "interface", "file", "cgroup", "tailnet"}
        pod.delete(*how)
        wait_until(lambda: traces(cluster, control) <= before, what="no trace of the pod")


def test_refused_annotation_is_told_by_kubelet(cluster: Cluster) -> None:
    """An annotation with an invalid value is in the pod's events, with its name, its value and what was expected."""
    with Pod(cluster, "wrong", {ENABLED: "maybe"}) as pod:
        message = wait_until(lambda: pod.events("FailedCreatePodSandBox"), what="an event")[0]
        assert ENABLED in message
        assert "maybe" in message


def named(control: ControlPlane, prefix: str, count: int) -> list[dict[str, Any]]:
    """The nodes whose names begin with PREFIX, if there are COUNT of them; otherwise none."""
    found = [node for node in control.nodes() if node["name"].startswith(prefix)]
    return found if len(found) == count else []
