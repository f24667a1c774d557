"""A node's processes die, and its pod keeps its connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit import headscale, traffic
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.traffic import Conversation
from tests.kit.wait import wait_until

FELT = 10.0 if headscale.PROGRAM else 4.0
"""Seconds, well below the 5 to 10 s that WireGuard needs by itself if nothing forces a handshake.

A real Headscale collects its updates about a new pod for several seconds before it sends them to the peer.
"""


@pytest.fixture
def pod(host: Host, peer: Peer) -> Sandbox:
    """An enrolled pod whose name the peer resolves."""
    sandbox = host.start(Pod.enrolled("restarts"))
    host.addresses(sandbox)
    wait_until(lambda: peer.resolve("restarts"), what="the pod's name at the peer")
    return sandbox


@pytest.fixture
def from_peer(host: Host, peer: Peer, pod: Sandbox) -> Iterator[Conversation]:
    """A connection that the peer has opened to the pod, with one message already echoed."""
    with (
        traffic.echo_server(pod.netns, host.root / "echo.log"),
        Conversation(peer.netns, host.root / "talk.log", host.addresses(pod)[0]) as conversation,
    ):
        conversation.say("before")
        assert conversation.heard() == "before"
        yield conversation


@pytest.fixture
def from_pod(host: Host, peer: Peer, pod: Sandbox) -> Iterator[Conversation]:
    """A connection that the pod has opened to the peer, with one message already echoed."""
    with (
        traffic.echo_server(peer.netns, host.root / "echo.log", port=17),
        Conversation(pod.netns, host.root / "talk.log", peer.addresses[0], port=17) as conversation,
    ):
        conversation.say("before")
        assert conversation.heard() == "before"
        yield conversation


def _remembered(host: Host, pod: Sandbox, peer: Peer) -> bool:
    """Whether the worker has recorded that the peer is active."""
    return peer.addresses[0] in (host.run_dir / host.id(pod) / "peers").read_text()


@pytest.mark.parametrize("direction", ["from_peer", "from_pod"])
def test_an_open_connection_outlives_the_worker(
    host: Host, peer: Peer, pod: Sandbox, direction: str, request: pytest.FixtureRequest
) -> None:
    """After SIGKILL of the worker an open TCP connection continues, whichever side sends first."""
    conversation: Conversation = request.getfixturevalue(direction)
    addresses, worker, supervisor = host.addresses(pod), host.worker(pod), host.supervisor(pod)
    wait_until(lambda: _remembered(host, pod, peer), what="the peer among the active ones")
    worker.kill()
    conversation.say("after")
    assert conversation.heard_within(FELT) == "after"
    assert host.worker(pod) != worker
    assert host.supervisor(pod) == supervisor
    assert host.addresses(pod) == addresses


def test_the_interface_outlives_the_worker(host: Host, pod: Sandbox) -> None:
    """After SIGKILL of the worker, ts0 has the same addresses, routes and interface index, and the node has the same UDP port."""
    before = (pod.netns.ip("address", "show", "ts0")[0]["ifindex"], host.ports(pod))
    host.worker(pod).kill()
    wait_until(lambda: host.running(pod), what="the node's return")
    assert (pod.netns.ip("address", "show", "ts0")[0]["ifindex"], host.ports(pod)) == before
    host.runtime.check(pod)


def test_a_deleted_interface_is_made_again(host: Host, pod: Sandbox) -> None:
    """After ``ip link delete ts0`` in the pod, the interface is made again with its addresses and routes."""
    addresses = host.addresses(pod)
    pod.netns.run("ip", "link", "delete", "ts0")
    wait_until(lambda: "ts0" in pod.netns.links() and host.running(pod), what="ts0 with its addresses")
    assert host.addresses(pod) == addresses
    wait_until(lambda: _checks(host, pod), what="a CHECK that passes")


def _checks(host: Host, pod: Sandbox) -> bool:
    try:
        host.runtime.check(pod)
    except CNIError:
        return False
    return True


def test_a_dead_supervisor_is_repaired_by_the_next_enrolled_pod(
    host: Host, pod: Sandbox, from_peer: Conversation
) -> None:
    """Without systemd, the next ADD of an enrolled pod restarts a killed supervisor, and an open connection continues."""
    addresses = host.addresses(pod)
    host.supervisor(pod).kill()
    wait_until(lambda: not host.processes(), what="the worker's end: it does not outlive its supervisor")
    host.start(Pod.enrolled("next"))
    wait_until(lambda: host.running(pod), what="the node's return")
    assert host.addresses(pod) == addresses
    from_peer.say("after")
    assert from_peer.heard_within(30) == "after"


def test_a_pass_through_repairs_nothing(host: Host, pod: Sandbox) -> None:
    """ADD of a pod that is not enrolled starts no process, even if another pod's supervisor is dead."""
    host.supervisor(pod).kill()
    wait_until(lambda: not host.processes(), what="the worker's end")
    host.start(Pod("plain"))
    assert host.processes() == []
