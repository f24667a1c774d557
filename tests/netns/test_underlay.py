"""The namespace of a worker's sockets, and hosts that are on a tailnet themselves."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

import pytest

from tests.kit import traffic
from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import wait_until
from tests.kit.world import World

HOST_TAILNET = "100.101.102.103"
FORGED = "100.64.99.99"
FORGED6 = "fd7a:115c:a1e0::99"


def _kubernetes_address(sandbox: Sandbox, version: int = 4) -> str:
    addresses = (
        ipaddress.ip_address(a) for a in sandbox.interface("eth0").addresses if not a.startswith("fe80")
    )
    return next(str(address) for address in addresses if address.version == version)


@pytest.mark.parametrize("underlay", ["host", "pod"])
def test_the_workers_sockets_are_where_the_underlay_says(host: Host, peer: Peer, underlay: str) -> None:
    """``underlay`` decides whether the worker is in the host's or in the pod's namespace. Peers reach the pod by name either way.

    The supervisor is always in the host's namespace.
    """
    host.configure(underlay=underlay)
    web = host.start(Pod.enrolled(f"under-{underlay}"))
    host.addresses(web)
    wanted: Netns = {"host": host.netns, "pod": web.netns}[underlay]
    assert host.worker(web).link("ns/net") == f"net:[{wanted.inode}]"
    assert host.supervisor(web).link("ns/net") == f"net:[{host.netns.inode}]"
    with traffic.web_server(web.netns, host.root / "web.log"):
        wait_until(lambda: peer.resolve(web.pod.name), what="the pod's name at the peer")
        assert peer.fetch(f"http://{web.pod.name}/") == f"hello {peer.addresses[0]}"
    host.runtime.delete(web)
    assert host.leftovers() == []
    assert web.netns.run("nft", "list", "ruleset") == ""


def test_pods_are_reached_directly_at_the_hosts_address(host: Host, peer: Peer) -> None:
    """With ``underlay: host`` a peer's path to a pod is direct: to the host's address and the node's own UDP port."""
    web = host.start(Pod.enrolled("direct"))
    host.addresses(web)
    (port,) = host.ports(web)
    assert 21641 <= port <= 22640
    wait_until(lambda: peer.resolve("direct"), what="the pod's name at the peer")
    places = (f"{host.plug.v4}:{port}", f"[{host.plug.v6}]:{port}")
    wait_until(lambda: any(f"via {place} " in peer.ping("direct") for place in places), what="a direct path")


def test_a_host_with_a_tailnet_address_reaches_its_pods(host: Host) -> None:
    """If the host has a 100.x address, a pod answers kubelet's probe from that address on eth0, before and after CHECK."""
    host.netns.run("ip", "address", "add", f"{HOST_TAILNET}/32", "dev", "eth0")
    web = host.start(Pod.enrolled("probed"))
    host.addresses(web)
    with traffic.web_server(web.netns, host.root / "web.log"):
        url = f"http://{_kubernetes_address(web)}/"
        assert traffic.fetch(host.netns, url, source=HOST_TAILNET) == f"hello {HOST_TAILNET}"
        host.runtime.check(web)
        assert traffic.fetch(host.netns, url, source=HOST_TAILNET) == f"hello {HOST_TAILNET}"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("guard", ["on", "off"])
def test_a_neighbours_forged_packet(host: Host, guard: str, version: int) -> None:
    """A neighbour's packet with a tailnet address as its source is dropped. Without ``antiSpoofing`` it arrives."""
    host.netns.run("ip", "address", "add", f"{HOST_TAILNET}/32", "dev", "eth0")
    host.configure(antiSpoofing=guard == "on")
    web, neighbour = host.start(Pod.enrolled("victim")), host.start(Pod("neighbour"))
    host.addresses(web)
    forged, target = {4: FORGED, 6: FORGED6}[version], _kubernetes_address(web, version)
    neighbour.netns.run("ip", "address", "add", forged, "dev", "lo")
    with traffic.inbox(web.netns, host.root / "inbox.log") as inbox:
        traffic.send(neighbour.netns, target, "forged", source=forged)
        traffic.send(neighbour.netns, target, "honest")
        first = inbox.stdout.readline().decode().strip()
    honest = f"{_kubernetes_address(neighbour, version)} honest"
    assert first == (honest if guard == "on" else f"{forged} forged")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("guard", ["on", "off"])
def test_a_neighbour_does_not_reach_the_tailnet_address(host: Host, guard: str, version: int) -> None:
    """A neighbour's packet to the pod's tailnet address is dropped. Without ``antiSpoofing`` it arrives."""
    host.configure(antiSpoofing=guard == "on")
    web, neighbour = host.start(Pod.enrolled("aimed")), host.start(Pod("neighbour"))
    address = host.addresses(web)[0 if version == 4 else 1]
    target = _kubernetes_address(web, version)
    neighbour.netns.run("ip", f"-{version}", "route", "add", address, "via", target, "dev", "eth0")
    with traffic.inbox(web.netns, host.root / "inbox.log") as inbox:
        traffic.send(neighbour.netns, address, "aimed")
        traffic.send(neighbour.netns, target, "honest")
        # Only the text counts: the source address in front of it may be masqueraded.
        word = inbox.stdout.readline().decode().split()[1]
    assert word == ("honest" if guard == "on" else "aimed")


@pytest.fixture
def on_tailnet(world: World, new_host: Callable[..., Host]) -> Iterator[Host]:
    """A host that runs its own tailscaled with a kernel interface and sends everything through an exit node."""
    host = new_host()
    with Netns("exit") as elsewhere:
        world.wire.plug(elsewhere)
        with (
            Peer(world.control, elsewhere, host.root / "exit", "exit") as exit_node,
            Peer(world.control, host.netns, host.root / "own", "machine") as own,
        ):
            exit_node.tailscale("set", "--advertise-exit-node")
            exit_address = exit_node.addresses[0]
            wait_until(lambda: _offers_exit(own, exit_address), what="the exit node's offer")
            own.tailscale("set", f"--exit-node={exit_address}")
            yield host


def _offers_exit(own: Peer, address: str) -> bool:
    peers = (own.status().get("Peer") or {}).values()
    return any(address in peer["TailscaleIPs"] and peer["ExitNodeOption"] for peer in peers)


def test_workers_do_not_tunnel_inside_the_hosts_tunnel(world: World, on_tailnet: Host, peer: Peer) -> None:
    """If the host's tailscaled uses an exit node, a worker's packets still use the host's own link, and paths are direct."""
    host = on_tailnet
    anybody = host.netns.ip("route", "get", world.control.address)[0]
    assert anybody["dev"] == "tailscale0"
    web = host.start(Pod.enrolled("untunnelled"))
    host.addresses(web)
    uid = host.worker(web).status["Uid"].split()[0]
    assert host.netns.ip("route", "get", world.control.address, "uid", uid)[0]["dev"] == "eth0"
    (port,) = host.ports(web)
    wait_until(lambda: peer.resolve("untunnelled"), what="the pod's name at the peer")
    places = (f"{host.plug.v4}:{port}", f"[{host.plug.v6}]:{port}")
    wait_until(
        lambda: any(f"via {place} " in peer.ping("untunnelled") for place in places), what="a direct path"
    )
    endpoints = (world.control.node("untunnelled") or {})["endpoints"]
    assert not [e for e in endpoints if e.startswith(("100.", "[fd7a:115c:a1e0:"))]
