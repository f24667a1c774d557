"""Disturbances around a running node: restarts, outages, crashes. They interrupt no connection and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.peer import Peer
from tests.kit.process import Failed
from tests.kit.traffic import Conversation
from tests.kit.wait import wait_until

from .cluster import Cluster
from .enrolment import traces, traces_after
from .pods import ENABLED, Pod


def test_restarts_of_kubelet_and_containerd_are_not_felt(
    cluster: Cluster, control: ControlPlane, peer: Peer, tmp_path: Path
) -> None:
    """A TCP connection over the tailnet stays open while kubelet and containerd restart, and the pod keeps its sandbox."""
    with Pod(cluster, "steady", {ENABLED: "true"}) as pod:
        pod.ready()
        address = reachable(control, peer, "steady")
        before = pod.pause
        with Conversation(peer.netns, tmp_path / "talk", address) as conversation:
            assert answered(conversation, "before")
            cluster.stop("kubelet")
            assert answered(conversation, "without kubelet")
            cluster.stop("containerd")
            assert answered(conversation, "without containerd")
            cluster.start_containerd()
            cluster.start_kubelet()
            pod.ready()
            assert answered(conversation, "after")
        assert pod.pause == before


def test_pod_starts_without_control_plane_and_joins_when_it_is_back(
    cluster: Cluster, control: ControlPlane, peer: Peer
) -> None:
    """A pod starts while the control plane is down, and its node is reachable once the control plane is back."""
    control.stop()
    try:
        pod = Pod(cluster, "patient", {ENABLED: "true"})
        pod.ready()
        assert pod.interface("ts0").exists
    finally:
        control.start()
    with pod:
        reachable(control, peer, "patient")
        assert peer.fetch(f"http://patient.{control.domain}/") == "hello from patient"


def test_killed_sandbox_becomes_a_node_again(cluster: Cluster, control: ControlPlane, peer: Peer) -> None:
    """When the pause process dies, kubelet makes a new sandbox for the pod; the tailnet has one node of that name, and it answers."""
    with Pod(cluster, "phoenix", {ENABLED: "true"}) as pod:
        pod.ready()
        reachable(control, peer, "phoenix")
        before = pod.pause
        before.kill()
        wait_until(lambda: pod.processes() and pod.pause != before, what="a new sandbox")
        pod.ready()
        reachable(control, peer, "phoenix")
        wait_until(lambda: names(control, "phoenix") == ["phoenix"], what="one node of that name")
        assert peer.fetch(f"http://phoenix.{control.domain}/") == "hello from phoenix"


def test_pod_deleted_while_containerd_is_down_leaves_nothing(cluster: Cluster, control: ControlPlane) -> None:
    """If a pod is deleted while containerd is down, nothing of the pod is left once containerd has restarted."""
    with Pod(cluster, "first", {ENABLED: "true"}) as first:
        first.ready()
    before = traces_after(cluster, control, first.uid)
    with Pod(cluster, "missed", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("missed"), what="the node missed")
        cluster.stop("containerd")
        pod.delete("--wait=false")
        cluster.start_containerd()
        pod.gone()
        left = without_daemons(before)
        wait_until(lambda: without_daemons(traces(cluster, control)) <= left, what="no trace of the pod")


@pytest.fixture(autouse=True)
def all_up(cluster: Cluster, control: ControlPlane) -> None:
    """Before each test, the control plane and the cluster's Node are up."""
    control.start()
    wait_until(cluster.ready, what="the node being Ready")


def reachable(control: ControlPlane, peer: Peer, name: str) -> str:
    """The IPv4 address of a node, once a peer reaches it."""
    node = wait_until(lambda: control.node(name), what=f"the node {name}")
    address = str(node["addresses"][0])
    wait_until(lambda: pings(peer, address), what=f"an answer of {name} to the peer's ping")
    return address


def pings(peer: Peer, address: str) -> bool:
    """Whether the peer reaches an address; it learns of new nodes only when it, too, is connected to the control plane again."""
    try:
        return bool(peer.ping(address))
    except Failed:
        return False


def answered(conversation: Conversation, line: str) -> bool:
    """Whether a line that is sent over the connection comes back."""
    conversation.say(line)
    return conversation.heard() == line


def names(control: ControlPlane, prefix: str) -> list[str]:
    """The names of the nodes that begin with PREFIX."""
    return [node["name"] for node in control.nodes() if node["name"].startswith(prefix)]


def without_daemons(lines: set[str]) -> set[str]:
    """The traces without the host's own daemons, which get new process IDs when they restart."""
    return {
        line
        for line in lines
        if not (line.startswith("process ") and "containerd" in line and "shim" not in line)
    }
