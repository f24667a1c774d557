"""The pod's network namespace with real packets, through a TUN and from a neighbour on the same wire."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tailscale_cni import errors, linux
from tailscale_cni.net import firewall, model, nftables, pod
from tests.kit.actor import Actor
from tests.kit.netns import Netns
from tests.kit.process import run
from tests.kit.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailscale_cni.tailnet import Address

WORKER_UID = 2_000_000_001
PORT = 4242
VNET_HEADER = bytes(10)
SIOCGIFHWADDR = 0x8927  # linux/sockios.h
NETLINK_NETFILTER = 12  # linux/netlink.h
NFNL_SUBSYS_NFT_COMPAT = 11  # linux/netfilter/nfnetlink.h
CLONE_NEWNS = 0x00020000  # linux/sched.h

POD = {4: ip_address("10.99.0.2"), 6: ip_address("fd99::2")}
NEIGHBOUR = {4: ip_address("10.99.0.3"), 6: ip_address("fd99::3")}
GATEWAY = NEIGHBOUR
NODE = {4: ip_address("100.64.0.7"), 6: ip_address("fd7a:115c:a1e0::7")}
PEER = {4: ip_address("100.101.0.9"), 6: ip_address("fd7a:115c:a1e0::9")}
HOST = {4: ip_address("100.77.0.1"), 6: ip_address("fd7a:115c:a1e0:77::1")}
SERVICE = {4: ip_address("100.100.100.100"), 6: ip_address("fd7a:115c:a1e0::53")}
ELSEWHERE = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
WIDTH = {4: 24, 6: 64}

TAILNET = model.Tailnet(addresses=tuple(NODE.values()), peers=tuple(PEER.values()))
NETWORK = model.PodNetwork(
    pod_addresses=tuple(POD.values()),
    host_sources=tuple(model.host_network(address) for address in HOST.values()),
    cluster_cidrs=(ip_network("10.99.0.0/16"), ip_network("fd99::/48")),
)

NO_IPV6 = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")

VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


LOCAL_ROUTES = ("ip", "-6", "route", "show", "table", "local")


class World(Actor):
    """A pod with a TUN, and a neighbour at the other end of the pod's veth, which is also the pod's gateway."""

    def __init__(self, *sysctls: str) -> None:
        self.pod, self.neighbour = Netns("pod"), Netns("neighbour")
        self.pod.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", *sysctls)
        self.neighbour.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self.pod.run(
            *["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns"],
            self.neighbour.name,
        )
        self.attach(self.pod, POD)
        self.attach(self.neighbour, NEIGHBOUR)
        wait_until(lambda: NO_IPV6[0] in sysctls or "fe80" in self.pod.run("ip", "addr", "show", "eth0"))
        for version, gateway in GATEWAY.items():
            self.pod.attempt("ip", f"-{version}", "route", "add", "default", "via", str(gateway))
        self.tun = self.call(linux.open_tun, "ts0", WORKER_UID, 1280)
        self.mac = {netns: hardware_address(netns) for netns in (self.pod, self.neighbour)}
        self.sockets: list[socket.socket] = []

    @staticmethod
    def attach(netns: Netns, addresses: dict[int, Address]) -> None:
        """Give a namespace its addresses in the IP versions that it supports."""
        netns.run(*["ip", "link", "set", "eth0", "up"])
        for version, address in addresses.items():
            no_dad = ["nodad"] if version == 6 else []
            netns.attempt("ip", "addr", "add", f"{address}/{WIDTH[version]}", "dev", "eth0", *no_dad)

    def close(self) -> None:
        """Close the sockets and the TUN, and remove both namespaces."""
        for held in self.sockets:
            held.close()
        os.close(self.tun)
        self.pod.close()
        self.neighbour.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the product inside the pod's namespace."""
        with linux.in_netns(str(self.pod.path)):
            return function(*arguments)

    def enrol(self, network: model.PodNetwork = NETWORK, tailnet: model.Tailnet = TAILNET) -> None:
        """Set up the network of an enrolled pod. Waits for the IPv6 address, which the kernel uses a moment after it accepts it."""
        self.call(pod.prepare, network)
        self.call(pod.apply, network, tailnet)
        for address in tailnet.addresses:
            if address.version == 6 and str(address) in self.pod.run("ip", "-6", "addr"):
                wait_until(lambda address=address: str(address) in self.pod.run(*LOCAL_ROUTES))  # type: ignore[misc]

    def state(self) -> str:
        """The state of the pod's network, as printed by ip and nft once all addresses are in use."""
        wait_until(lambda: "tentative" not in self.pod.run("ip", "addr"), what="addresses that are in use")
        questions = ["addr", "-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"]
        answers = [self.pod.run("ip", *question.split()) for question in questions]
        return "\n".join([*answers, self.pod.run("nft", "list", "ruleset")])

    def open(self, netns: Netns, family: int, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        """Open a socket in a namespace. The socket stays in that namespace wherever it is used."""
        with linux.in_netns(str(netns.path)):
            opened = socket.socket(family, kind)
        opened.settimeout(10)
        self.sockets.append(opened)
        return opened

    def listen(self, netns: Netns, version: int) -> socket.socket:
        """A UDP socket that receives everything that is sent to the port, at any address."""
        listener = self.open(netns, family(version))
        listener.bind(("", PORT))
        return listener

    def say(self, netns: Netns, version: int, to: Address, text: bytes, uid: int = 0) -> None:
        """Send one ordinary datagram from a socket of the uid ``uid``."""
        speaker = self.open(netns, family(version))
        os.fchown(
            speaker.fileno(), uid, 0
        )  # the uid that routing rules see (linux: net/socket.c, sockfs_setattr)
        speaker.sendto(text, (str(to), PORT))

    def forge(self, source: Address, destination: Address, text: bytes) -> None:
        """Send a packet with any addresses from the neighbour to the pod's hardware address."""
        wire = self.open(self.neighbour, socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("eth0", 0))
        ethertype = struct.pack("!H", 0x0800 if source.version == 4 else 0x86DD)
        header = self.mac[self.pod] + self.mac[self.neighbour] + ethertype
        wire.send(header + datagram(source, destination, text))

    def from_tailnet(self, source: Address, destination: Address, text: bytes) -> None:
        """Write a packet to the TUN, as the worker does."""
        os.write(self.tun, VNET_HEADER + datagram(source, destination, text))

    def to_tailnet(self) -> tuple[Address, Address, bytes] | None:
        """Read a packet from the TUN, as the worker does. Returns source, destination and payload, or None if no packet waits."""
        try:
            packet = os.read(self.tun, 65536)[len(VNET_HEADER) :]
        except BlockingIOError:
            return None
        if packet[0] >> 4 == 4:
            return ip_address(packet[12:16]), ip_address(packet[16:20]), packet[28:]
        return ip_address(packet[8:24]), ip_address(packet[24:40]), packet[48:]

    def heard(self, listener: socket.socket, version: int) -> list[bytes]:
        """The datagrams that arrived before an ordinary one that is sent now. On a wire, packets keep their order."""
        self.say(self.neighbour, version, POD[version], b"last")
        texts = []
        while (text := listener.recv(2048).rstrip(b"\0")) != b"last":
            texts.append(text)
        return texts


def family(version: int) -> socket.AddressFamily:
    """The address family of an IP version."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


def hardware_address(netns: Netns) -> bytes:
    """The MAC address of a namespace's eth0."""
    with linux.in_netns(str(netns.path)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer: bytes = fcntl.ioctl(control, SIOCGIFHWADDR, struct.pack("256s", b"eth0"))
    return answer[18:24]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``, which has an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(source: Address, destination: Address, text: bytes) -> bytes:
    """An IP packet that contains a UDP datagram to the port."""
    text += bytes(len(text) % 2)
    length = 8 + len(text)
    pseudo = source.packed + destination.packed + struct.pack("!HH", length, socket.IPPROTO_UDP)
    udp = struct.pack("!HHHH", PORT, PORT, length, 0) + text
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xFFFF) + text
    if isinstance(source, IPv6Address):
        return (
            struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
            + source.packed
            + destination.packed
            + udp
        )
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Run the test on one CPU, because packets keep their order only there. Parallel test processes use different CPUs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def world() -> Iterator[World]:
    """A pod that is not enrolled yet."""
    with World() as world:
        yield world


@pytest.fixture(params=["0", "1", "2"], ids=["no rp_filter", "strict rp_filter", "loose rp_filter"])
def filtered_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A pod that is not enrolled yet, once for each setting of the reverse-path filter."""
    with World(
        *(f"net.ipv4.conf.{which}.rp_filter={request.param}" for which in ("all", "default"))
    ) as world:
        yield world


# -- what prepare and apply make


def test_the_kernel_hands_over_what_one_message_carries(world: World) -> None:
    """The kernel passes at most 49 packets at once, because 49 encrypted packets of 1280 bytes fit into one UDP message.

    They fit even with a peer relay's header. 50 packets do not fit, even without that header.
    """
    world.call(pod.prepare, NETWORK)
    (link,) = world.pod.ip("-details", "link", "show", "ts0")
    assert link["gso_max_segs"] == 49
    assert 49 * (1280 + 40) <= 65507 < 50 * (1280 + 32)


def test_prepare_makes_a_silent_interface_without_addresses(world: World) -> None:
    """``prepare`` brings up an interface that forwards nothing and has no address, not even a link-local one."""
    world.pod.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    world.call(pod.prepare, NETWORK)
    (link,) = world.pod.ip("addr", "show", "ts0")
    assert "UP" in link["flags"]
    assert (link["mtu"], link["addr_info"]) == (1280, [])
    wanted = {
        "ipv4": {"forwarding": 0},
        "ipv6": {"forwarding": 0, "accept_ra": 0, "addr_gen_mode": 1, "accept_dad": 0},
    }
    for version, settings in wanted.items():
        for name, value in settings.items():
            assert int(world.pod.run("sysctl", "-n", f"net.{version}.conf.ts0.{name}")) == value
    assert world.pod.run("sysctl", "-n", "net.ipv4.conf.eth0.forwarding").strip() == "1"


def test_rules_of_prepare(world: World) -> None:
    """``prepare`` adds rules: the pod's own addresses use table main first, then all traffic uses table 52."""
    world.call(pod.prepare, NETWORK)
    own = [rule for rule in world.pod.rules() if rule.startswith("51")]
    assert own == [
        "5170:\tfrom 10.99.0.2 lookup main proto 52",
        "5180:\tfrom all lookup 52 proto 52",
        "5170:\tfrom fd99::2 lookup main proto 52",
        "5180:\tfrom all lookup 52 proto 52",
    ]


def test_apply_gives_addresses_and_routes(world: World) -> None:
    """``apply`` gives ts0 the node's addresses as single addresses, and routes the tailnet's ranges to ts0 in table 52."""
    world.enrol()
    (link,) = world.pod.ip("addr", "show", "ts0")
    assert {(a["local"], a["prefixlen"]) for a in link["addr_info"]} == {
        (str(NODE[4]), 32),
        (str(NODE[6]), 128),
    }
    assert [r["dst"] for r in world.pod.ip("-4", "route", "show", "table", "52")] == ["100.64.0.0/10"]
    assert [r["dst"] for r in world.pod.ip("-6", "route", "show", "table", "52")] == ["fd7a:115c:a1e0::/48"]
    assert "ts0" not in world.pod.run("ip", "-6", "route", "show", "table", "main")


def test_doing_it_again_changes_nothing(world: World) -> None:
    """``prepare`` and ``apply`` can be repeated in any order. ``apply`` returns whether it changed anything."""
    world.call(pod.prepare, NETWORK)
    assert world.call(pod.apply, NETWORK, TAILNET) is True
    before = world.state()
    assert world.call(pod.apply, NETWORK, TAILNET) is False
    world.call(pod.prepare, NETWORK)
    assert world.state() == before
    assert world.call(pod.verify, NETWORK, TAILNET) == []


def test_apply_does_all_that_prepare_does(world: World) -> None:
    """``apply`` also repairs sysctls, rules and the interface, because a sync calls only ``apply``."""
    world.enrol()
    before = world.state()
    for damage in (
        "sysctl -qw net.ipv4.conf.ts0.forwarding=1",
        "ip rule del pref 5180",
        "ip link set ts0 down",
    ):
        world.pod.run(*damage.split())
    world.call(pod.apply, NETWORK, TAILNET)
    assert world.call(pod.verify, NETWORK, TAILNET) == []
    assert world.pod.run("sysctl", "-n", "net.ipv4.conf.ts0.forwarding").strip() == "0"
    wait_until(lambda: world.state() == before)


def test_apply_follows_the_node(world: World) -> None:
    """If the node's addresses change, ``apply`` removes the old addresses with their routes and firewall rules."""
    world.enrol()
    moved = model.Tailnet(addresses=(ip_address("100.64.0.8"),))
    assert world.call(pod.apply, NETWORK, moved) is True
    assert world.call(pod.verify, NETWORK, moved) == []
    for gone in NODE.values():
        assert f"{gone}/" not in world.state()
        assert f"daddr {gone} " not in world.state()
    assert world.pod.ip("-6", "route", "show", "table", "52") == []
    assert world.call(pod.apply, NETWORK, TAILNET) is True
    assert world.call(pod.verify, NETWORK, TAILNET) == []


def test_apply_leaves_only_its_own_in_its_places(world: World) -> None:
    """``apply`` removes other addresses from the node's interface and other routes from the tailnet's table."""
    world.enrol()
    before = world.state()
    world.pod.run(*["ip", "addr", "add", "100.64.9.9/32", "dev", "ts0"])
    for route in (
        "203.0.113.0/24 dev eth0",
        "unreachable 198.51.100.0/24",
        "default via 10.99.0.3",
        "2001:db8::/32 dev ts0",
    ):
        world.pod.run("ip", "route", "add", *route.split(), "table", "52")
    assert world.call(pod.apply, NETWORK, TAILNET) is True
    assert world.state() == before


def test_it_works_without_anybody_at_the_tun(world: World) -> None:
    """``prepare`` and ``apply`` succeed without a worker at the TUN, although the interface then has no carrier."""
    world.call(linux.open_tun, "ts0", WORKER_UID, 1280) if world.tun < 0 else os.close(world.tun)
    try:
        world.enrol()
        assert world.call(pod.verify, NETWORK, TAILNET) == []
    finally:
        world.tun = world.call(linux.open_tun, "ts0", WORKER_UID, 1280)
    assert world.call(pod.verify, NETWORK, TAILNET) == []


# -- which way packets go


@VERSIONS
def test_the_pod_speaks_to_the_tailnet_as_its_node(world: World, version: int) -> None:
    """The pod reaches peers and the service address from the node's address through ts0. Other destinations use eth0."""
    world.enrol()
    for there in (PEER[version], SERVICE[version]):
        world.say(world.pod, version, there, b"hi")
        assert world.to_tailnet() == (NODE[version], there, b"hi")
    assert "dev eth0" in world.pod.run("ip", "route", "get", str(ELSEWHERE[version]))


@VERSIONS
def test_the_tailnet_reaches_the_pod(filtered_world: World, version: int) -> None:
    """The pod receives a peer's packet with every setting of the reverse-path filter."""
    filtered_world.enrol()
    listener = filtered_world.listen(filtered_world.pod, version)
    filtered_world.from_tailnet(PEER[version], NODE[version], b"hi")
    assert filtered_world.heard(listener, version) == [b"hi"]


@VERSIONS
def test_a_host_with_a_tailnet_address_is_answered_on_eth0(filtered_world: World, version: int) -> None:
    """A host with a tailnet address can connect to the pod with every setting of the reverse-path filter."""
    world = filtered_world
    world.neighbour.run(
        "ip", "addr", "add", str(HOST[version]), "dev", "eth0", *(["nodad"] if version == 6 else [])
    )
    world.enrol()
    assert "dev ts0" in world.pod.run("ip", "route", "get", str(HOST[version]))
    with world.open(world.pod, family(version), socket.SOCK_STREAM) as server:
        server.bind(("", PORT))
        server.listen()
        probe = world.open(world.neighbour, family(version), socket.SOCK_STREAM)
        probe.bind((str(HOST[version]), 0))
        probe.connect((str(POD[version]), PORT))
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"healthy")
            assert probe.recv(16) == b"healthy"


@VERSIONS
def test_the_pod_reaches_itself_by_its_tailnet_address(world: World, version: int) -> None:
    """A process in the pod reaches the pod's server at the node's address."""
    world.enrol()
    listener = world.listen(world.pod, version)
    world.say(world.pod, version, NODE[version], b"me")
    assert listener.recv(16) == b"me"


@VERSIONS
def test_a_worker_inside_the_pod_does_not_tunnel_in_its_own_tunnel(world: World, version: int) -> None:
    """With ``underlay: pod``, the worker's sockets use the pod's routes even for tailnet addresses. Other sockets use ts0."""
    world.enrol(NETWORK._replace(worker_uid_range=(WORKER_UID, WORKER_UID)))
    world.neighbour.run(
        "ip", "addr", "add", str(PEER[version]), "dev", "eth0", *(["nodad"] if version == 6 else [])
    )
    listener = world.listen(world.neighbour, version)
    world.say(world.pod, version, PEER[version], b"worker", uid=WORKER_UID)
    assert listener.recv(16) == b"worker"
    world.say(world.pod, version, PEER[version], b"app", uid=WORKER_UID + 1)
    assert world.to_tailnet() == (NODE[version], PEER[version], b"app")


@VERSIONS
def test_the_pod_is_no_way_out_of_the_tailnet(world: World, version: int) -> None:
    """A peer's packet to another host is not forwarded, even if the namespace forwards."""
    world.pod.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    world.enrol()
    listener = world.listen(world.neighbour, version)
    world.from_tailnet(PEER[version], NEIGHBOUR[version], b"through")
    world.say(world.pod, version, NEIGHBOUR[version], b"last")
    assert listener.recv(16) == b"last"


@VERSIONS
def test_a_pod_that_shall_forward_does(world: World, version: int) -> None:
    """With forwarding enabled, packets from a peer to another host and back are forwarded."""
    world.pod.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    network = NETWORK._replace(forwarding=True)
    world.enrol(network)
    assert world.call(pod.verify, network, TAILNET) == []
    listener = world.listen(world.neighbour, version)
    world.from_tailnet(PEER[version], NEIGHBOUR[version], b"through")
    assert listener.recv(16).rstrip(b"\0") == b"through"
    world.neighbour.run("ip", "route", "add", str(PEER[version]), "via", str(POD[version]))
    world.say(world.neighbour, version, PEER[version], b"back")
    wait_until(lambda: world.to_tailnet() == (NEIGHBOUR[version], PEER[version], b"back"))


# -- a cluster that uses the tailnet's addresses


def test_a_cluster_in_the_tailnets_range_keeps_its_addresses(world: World) -> None:
    """If cluster CIDRs overlap the tailnet's range, only peers and the service address are routed to the tailnet."""
    cluster = ip_network("100.77.0.0/16")
    network = NETWORK._replace(cluster_cidrs=(cluster,), host_sources=(cluster,))
    world.enrol(network)
    routes = {route["dst"] for route in world.pod.ip("-4", "route", "show", "table", "52")}
    assert routes == {str(PEER[4]), str(SERVICE[4])}
    assert "dev eth0" in world.pod.run("ip", "route", "get", str(HOST[4]))
    assert world.call(pod.verify, network, TAILNET) == []
    other = TAILNET._replace(peers=(ip_address("100.102.0.1"),))
    assert world.call(pod.apply, network, other) is True
    routes = {route["dst"] for route in world.pod.ip("-4", "route", "show", "table", "52")}
    assert routes == {"100.102.0.1", str(SERVICE[4])}


def test_a_neighbour_of_such_a_cluster_is_heard(world: World) -> None:
    """In a cluster that overlaps the range, another pod reaches the pod, but cannot send as the node or to the node."""
    cluster = ip_network("100.64.0.0/16")
    world.enrol(NETWORK._replace(cluster_cidrs=(cluster,), host_sources=(cluster,)))
    listener = world.listen(world.pod, 4)
    world.forge(ip_address("100.64.3.3"), POD[4], b"neighbour")
    world.forge(ip_address("100.64.3.3"), NODE[4], b"to the node")
    world.forge(NODE[4], POD[4], b"as the node")
    assert world.heard(listener, 4) == [b"neighbour"]


def test_an_exit_node_goes_around_the_cluster(world: World) -> None:
    """Accepted routes go to the tailnet. The cluster's addresses never do, whatever routes are accepted."""
    routes = ("0.0.0.0/0", "192.168.7.0/24", "10.99.7.0/24", "::/0", "fd99:0:0:7::/64")
    tailnet = TAILNET._replace(routes=tuple(ip_network(route) for route in routes))
    world.enrol(tailnet=tailnet)
    assert world.call(pod.verify, NETWORK, tailnet) == []
    assert world.call(pod.apply, NETWORK, tailnet) is False
    for there in (*ELSEWHERE.values(), ip_address("192.168.7.1")):
        assert "dev ts0" in world.pod.run("ip", "route", "get", str(there))
    for near in ("10.99.7.1", "fd99:0:0:7::1", *map(str, NEIGHBOUR.values())):
        assert "dev eth0" in world.pod.run("ip", "route", "get", near)
    assert world.call(pod.apply, NETWORK, TAILNET) is True
    assert "dev eth0" in world.pod.run("ip", "route", "get", str(ELSEWHERE[4]))


# -- spoofing


@VERSIONS
def test_a_neighbour_cannot_pretend_to_be_of_the_tailnet(filtered_world: World, version: int) -> None:
    """On eth0, packets to the node or from a tailnet address are dropped. A host's tailnet address still reaches the pod."""
    world = filtered_world
    world.enrol()
    listener = world.listen(world.pod, version)
    world.forge(PEER[version], POD[version], b"from a peer")
    world.forge(PEER[version], NODE[version], b"from a peer to the node")
    world.forge(NODE[version], POD[version], b"from the node")
    world.forge(NEIGHBOUR[version], NODE[version], b"to the node")
    world.forge(HOST[version], NODE[version], b"from a host to the node")
    world.forge(HOST[version], POD[version], b"from a host")
    world.forge(NEIGHBOUR[version], POD[version], b"from a neighbour")
    assert world.heard(listener, version) == [b"from a host", b"from a neighbour"]


@VERSIONS
def test_what_a_neighbour_can_do_without_protection(world: World, version: int) -> None:
    """With ``antiSpoofing: false`` there is no firewall table and forged packets arrive, so the other tests can fail."""
    network = NETWORK._replace(anti_spoofing=False)
    world.enrol(network)
    assert world.pod.run("nft", "list", "ruleset") == ""
    assert world.call(pod.verify, network, TAILNET) == []
    listener = world.listen(world.pod, version)
    world.forge(PEER[version], POD[version], b"from a peer")
    world.forge(PEER[version], NODE[version], b"to the node")
    assert world.heard(listener, version) == [b"from a peer", b"to the node"]


@VERSIONS
def test_the_protection_is_there_before_the_address(world: World, version: int) -> None:
    """After ``prepare``, packets from tailnet addresses are dropped, although the node has no address yet."""
    world.call(pod.prepare, NETWORK)
    listener = world.listen(world.pod, version)
    world.forge(PEER[version], POD[version], b"from a peer")
    assert world.heard(listener, version) == []


@VERSIONS
def test_a_neighbour_cannot_send_through_the_pod_as_the_node(world: World, version: int) -> None:
    """A neighbour's packet with the node's address as its source is not forwarded to a peer, even if the namespace forwards."""
    world.pod.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    world.enrol()
    listener = world.listen(world.pod, version)
    world.forge(NODE[version], PEER[version], b"forged")
    assert world.heard(listener, version) == []
    world.say(world.pod, version, PEER[version], b"own")
    own = (NODE[version], PEER[version], b"own")
    seen = [world.to_tailnet()]
    while seen[-1] != own:
        seen.append(wait_until(world.to_tailnet))
    assert (NODE[version], PEER[version], b"forged") not in seen


@VERSIONS
def test_only_the_tailnet_comes_in_by_its_interface(world: World, version: int) -> None:
    """On ts0, packets from outside the tailnet's ranges and packets with the pod's own addresses as source are dropped."""
    world.enrol()
    listener = world.listen(world.pod, version)
    for source in (ELSEWHERE, NEIGHBOUR, POD, NODE):
        world.from_tailnet(source[version], NODE[version], b"forged")
    world.from_tailnet(PEER[version], NODE[version], b"from a peer")
    world.from_tailnet(SERVICE[version], NODE[version], b"from the service address")
    assert world.heard(listener, version) == [b"from a peer", b"from the service address"]


@VERSIONS
def test_accepted_routes_come_in_by_the_nodes_interface(world: World, version: int) -> None:
    """With an exit node, ts0 accepts packets from everywhere except the cluster. Without one, ts0 drops them again."""
    tailnet = TAILNET._replace(routes=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    world.enrol(tailnet=tailnet)
    assert world.call(pod.apply, NETWORK, tailnet) is False
    listener = world.listen(world.pod, version)
    world.from_tailnet(NEIGHBOUR[version], NODE[version], b"from the cluster")
    world.from_tailnet(ELSEWHERE[version], NODE[version], b"from elsewhere")
    assert world.heard(listener, version) == [b"from elsewhere"]
    world.enrol()
    world.from_tailnet(ELSEWHERE[version], NODE[version], b"from elsewhere")
    assert world.heard(listener, version) == []


def test_there_is_no_moment_without_protection(world: World) -> None:
    """While the firewall table is replaced again and again, no packet of a stream of forged packets arrives."""
    world.enrol()
    listener = world.listen(world.pod, 4)
    stop, sent = threading.Event(), 0

    def flood() -> None:
        nonlocal sent
        while not stop.is_set():
            world.forge(PEER[4], NODE[4], b"forged")
            world.sockets.pop().close()
            sent += 1

    flooder = threading.Thread(target=flood)
    flooder.start()
    others = TAILNET._replace(addresses=(NODE[4],))
    for _ in range(20):
        for tailnet in (others, TAILNET):
            assert world.call(pod.apply, NETWORK, tailnet) is True
    stop.set()
    flooder.join()
    assert sent > 20
    assert world.heard(listener, 4) == []


def test_a_refused_transaction_changes_nothing(world: World) -> None:
    """If the kernel refuses a new firewall rule, the old table stays, and the error has the kernel's reason."""
    world.enrol()
    before = world.state()
    with pytest.raises(
        errors.NetworkFailed, match="put up the anti-spoofing rules: Value too large for defined data type"
    ):
        world.call(firewall.protect, NETWORK._replace(interface="x" * 40), ())
    assert world.state() == before


AS_NFT_READS_IT = """\
table inet tailscale-cni {
chain prerouting {
type filter hook prerouting priority -250; policy accept;
iifname "lo" accept comment "from the pod itself"
ip saddr 100.64.0.7 drop comment "from 100.64.0.7, which is this pod"
ip6 saddr fd7a:115c:a1e0::7 drop comment "from fd7a:115c:a1e0::7, which is this pod"
iifname "ts0" goto from-tailnet comment "by ts0"
ip daddr 100.64.0.7 drop comment "to 100.64.0.7, not from the tailnet"
ip6 daddr fd7a:115c:a1e0::7 drop comment "to fd7a:115c:a1e0::7, not from the tailnet"
ip saddr 100.64.0.0/10 goto tailnet-source comment "from 100.64.0.0/10, not from the tailnet"
ip6 saddr fd7a:115c:a1e0::/48 goto tailnet-source comment "from fd7a:115c:a1e0::/48, not from the tailnet"
}
chain from-tailnet {
ip saddr 100.64.0.0/10 accept comment "from 100.64.0.0/10, a peer"
ip6 saddr fd7a:115c:a1e0::/48 accept comment "from fd7a:115c:a1e0::/48, a peer"
drop comment "not a source of the tailnet"
}
chain tailnet-source {
ip saddr 100.77.0.1 accept comment "100.77.0.1/32 may"
ip6 saddr fd7a:115c:a1e0:77::1 accept comment "fd7a:115c:a1e0:77::1/128 may"
drop comment "nobody else may"
}
chain forward {
type filter hook forward priority -50; policy accept;
iifname "ts0" drop comment "from the tailnet to others"
oifname "ts0" drop comment "from others to the tailnet"
}
}"""


def test_the_table_as_nft_reads_it(world: World) -> None:
    """``nft list`` prints the firewall table with a comment at each rule that explains it."""
    world.enrol()
    listed = world.pod.run("nft", "list", "table", "inet", "tailscale-cni")
    assert [line.strip() for line in listed.splitlines() if line] == AS_NFT_READS_IT.split("\n")


def test_a_thousand_hosts(world: World) -> None:
    """The firewall rules for a thousand hosts fit into one transaction, and ``verify`` finds all of them."""
    hosts = tuple(model.host_network(ip_address("100.80.0.0") + n) for n in range(1000))
    network = NETWORK._replace(host_sources=hosts)
    world.enrol(network)
    assert world.call(pod.verify, network, TAILNET) == []
    assert world.call(pod.apply, network, TAILNET) is False
    world.pod.run("nft", "flush", "chain", "inet", "tailscale-cni", "tailnet-source")
    assert len(world.call(pod.verify, network, TAILNET)) == 1001


# -- what verify finds


BROKEN = {
    "ip link del ts0": ["ts0 is not there"],
    "ip link set ts0 mtu 1500": ["ts0 has an MTU of 1500, not 1280"],
    "ip addr del 100.64.0.7/32 dev ts0": [  # with the last IPv4 address, the kernel removes the routes
        "ts0 does not have the address 100.64.0.7",
        "the route 100.64.0.0/10 is missing",
    ],
    "ip addr del fd7a:115c:a1e0::7/128 dev ts0": ["ts0 does not have the address fd7a:115c:a1e0::7"],
    "ip rule del pref 5160": [
        "the rule 'IPv4 5160: from all uidrange 2000000001-2000000001 lookup main' is missing"
    ],
    "ip rule del pref 5170": ["the rule 'IPv4 5170: from 10.99.0.2 lookup main' is missing"],
    "ip rule del pref 5180": ["the rule 'IPv4 5180: from all lookup 52' is missing"],
    "ip -6 rule del pref 5170": ["the rule 'IPv6 5170: from fd99::2 lookup main' is missing"],
    "ip -6 rule del pref 5180": ["the rule 'IPv6 5180: from all lookup 52' is missing"],
    "ip route del 100.64.0.0/10 table 52": ["the route 100.64.0.0/10 is missing"],
    "ip route replace 100.64.0.0/10 dev eth0 table 52": ["the route 100.64.0.0/10 is missing"],
    "ip route replace unreachable 100.64.0.0/10 table 52": ["the route 100.64.0.0/10 is missing"],
    "ip -6 route del fd7a:115c:a1e0::/48 table 52": ["the route fd7a:115c:a1e0::/48 is missing"],
    "nft flush chain inet tailscale-cni tailnet-source": [
        "the firewall rule '100.77.0.1/32 may' is missing",
        "the firewall rule 'fd7a:115c:a1e0:77::1/128 may' is missing",
        "the firewall rule 'nobody else may' is missing",
    ],
}


@pytest.mark.parametrize("damage", BROKEN)
def test_verify_names_what_is_broken(world: World, damage: str) -> None:
    """``verify`` names exactly what is missing or changed, and ``prepare`` and ``apply`` repair it."""
    network = NETWORK._replace(worker_uid_range=(WORKER_UID, WORKER_UID))
    world.enrol(network)
    assert world.call(pod.verify, network, TAILNET) == []
    world.pod.run(*damage.split())
    assert world.call(pod.verify, network, TAILNET) == BROKEN[damage]
    if "link del" not in damage:
        world.enrol(network)
        assert world.call(pod.verify, network, TAILNET) == []


def test_verify_finds_an_interface_that_is_down(world: World) -> None:
    """``verify`` names an interface that is down, and the routes that the kernel removed with it."""
    world.enrol()
    world.pod.run("ip", "link", "set", "ts0", "down")
    findings = world.call(pod.verify, NETWORK, TAILNET)
    assert findings[0] == "ts0 is down"
    assert "the route 100.64.0.0/10 is missing" in findings
    world.enrol()
    assert world.call(pod.verify, NETWORK, TAILNET) == []


REWRITTEN = {
    "s/ drop / accept /": [
        "the firewall rule 'from 100.64.0.7, which is this pod' was changed",
        "the firewall rule 'from fd7a:115c:a1e0::7, which is this pod' was changed",
        "the firewall rule 'to 100.64.0.7, not from the tailnet' was changed",
        "the firewall rule 'to fd7a:115c:a1e0::7, not from the tailnet' was changed",
        "the firewall rule 'from the tailnet to others' was changed",
        "the firewall rule 'from others to the tailnet' was changed",
    ],
    "s/ip saddr 100.77.0.1 /ip saddr 100.78.0.1 /": ["the firewall rule '100.77.0.1/32 may' was changed"],
    "s/goto tailnet-source/goto from-tailnet/": [
        "the firewall rule 'from 100.64.0.0/10, not from the tailnet' was changed",
        "the firewall rule 'from fd7a:115c:a1e0::/48, not from the tailnet' was changed",
    ],
    's/iifname "lo" accept/accept/': ["the firewall rule 'from the pod itself' was changed"],
    "s/hook prerouting/hook input/": ["the firewall chain 'prerouting' was changed"],
    "s/priority -250/priority 250/": ["the firewall chain 'prerouting' was changed"],
    "/which is this pod/p": ["the firewall's rules are not in their order, or others are among them"],
    "/hook prerouting/a accept": ["the firewall's rules are not in their order, or others are among them"],
    "1a flags dormant": ["the firewall table is switched off"],
    "": [],
}


@pytest.mark.parametrize("script", REWRITTEN)
def test_verify_finds_a_table_that_was_rewritten(world: World, script: str) -> None:
    """``verify`` names firewall rules that were changed but have their comments, and ``apply`` repairs the table."""
    world.enrol()
    before = world.state()
    listed = world.pod.run("nft", "list", "table", "inet", "tailscale-cni")
    edited = run(["sed", script], stdin=listed)
    world.pod.run("nft", "-f", "-", stdin=f"delete table inet tailscale-cni\n{edited}")
    assert world.call(pod.verify, NETWORK, TAILNET) == REWRITTEN[script]
    assert world.call(pod.apply, NETWORK, TAILNET) is bool(script)
    assert world.call(pod.verify, NETWORK, TAILNET) == []
    assert world.state() == before


OTHERS = {
    "a bridge": "ip link add ts0 type bridge",
    "a tap": "ip tuntap add ts0 mode tap",
    "a TUN of the pod's own": "ip tuntap add ts0 mode tun user 1000",
    "a TUN of nobody's": "ip tuntap add ts0 mode tun",
}


@pytest.mark.parametrize("other", OTHERS)
def test_verify_finds_another_interface_in_the_nodes_place(world: World, other: str) -> None:
    """``verify`` names an interface that has the name, addresses and routes of ts0, but is not the node's TUN."""
    network = NETWORK._replace(tun_owner=WORKER_UID)
    world.enrol(network)
    assert world.call(pod.verify, network, TAILNET) == []
    for command in (
        "ip link set ts0 down",
        "ip link set ts0 name mine",
        OTHERS[other],
        "ip link set ts0 mtu 1280",
    ):
        world.pod.run(*command.split())
    world.pod.run("ip", "link", "set", "ts0", "up")
    world.enrol(network)
    assert world.call(pod.verify, network, TAILNET) == ["ts0 is not the node's TUN interface"]


def test_verify_finds_a_table_that_is_gone(world: World) -> None:
    """``verify`` names every rule of a firewall table that was deleted."""
    world.enrol()
    world.pod.run("nft", "flush", "ruleset")
    purposes = [rule.purpose for rule in firewall.filters(NETWORK, TAILNET.addresses)]
    assert world.call(pod.verify, NETWORK, TAILNET) == [
        f"the firewall rule '{p}' is missing" for p in purposes
    ]


# -- the configuration of others


FOREIGN = """
ip link add wg0 type bridge
ip addr add 10.7.0.2/32 dev wg0
ip link set wg0 up
ip rule add not fwmark 51820 lookup 51820 pref 32764
ip rule add lookup main suppress_prefixlength 0 pref 32763
ip -6 rule add not fwmark 51820 lookup 51820 pref 32764
ip rule add from 10.99.0.2 lookup 200 pref 100
ip rule add from 10.99.0.2 to 192.0.2.0/24 lookup main pref 5170
ip rule add uidrange 1000-1000 lookup 52 pref 5180
ip rule add from 10.99.0.2 ipproto tcp dport 443 lookup main pref 5170
ip rule add not from all lookup 52 pref 5180
ip route add default dev wg0 table 51820
nft add table inet wg-quick-wg0
nft add chain inet wg-quick-wg0 preraw '{ type filter hook prerouting priority raw ; }'
nft add rule inet wg-quick-wg0 preraw iifname != wg0 ip daddr 10.7.0.2 fib saddr type != local drop
nft add table ip filter
nft add chain ip filter INPUT '{ type filter hook input priority 0 ; policy accept ; }'
"""


def test_others_are_left_alone(world: World) -> None:
    """``prepare``, ``apply`` and ``remove`` leave a VPN sidecar's configuration alone, and ``verify`` ignores it."""
    world.pod.run("ip", "link", "del", "ts0")
    world.pod.run("sh", "-ec", FOREIGN)
    before = world.state()
    world.call(pod.remove, NETWORK)
    assert world.state() == before
    world.tun, stale = world.call(linux.open_tun, "ts0", WORKER_UID, 1280), world.tun
    os.close(stale)
    world.enrol()
    assert world.call(pod.verify, NETWORK, TAILNET) == []
    assert "dev wg0" in world.pod.run("ip", "route", "get", str(ELSEWHERE[4]))
    assert "dev ts0" in world.pod.run("ip", "route", "get", str(PEER[4]))
    world.call(pod.remove, NETWORK)
    assert world.state() == before


# -- remove


def test_remove_leaves_the_pod_as_it_was(world: World) -> None:
    """``remove`` leaves the namespace as the primary CNI made it. A second ``remove`` is no error."""
    untouched = World()
    untouched.pod.run("ip", "link", "del", "ts0")
    network = NETWORK._replace(worker_uid_range=(WORKER_UID, WORKER_UID))
    world.enrol(network)
    world.call(pod.remove, network)
    assert world.pod.links() == {"lo", "eth0"}
    for rules in ("ip -4 rule", "ip -6 rule", "ip -4 route", "ip -6 route show default", "nft list ruleset"):
        assert world.pod.run(*rules.split()) == untouched.pod.run(*rules.split())
    world.call(pod.remove, network)
    untouched.close()


@pytest.mark.parametrize(
    "gone", ["ip link del ts0", "nft flush ruleset", "ip rule flush", "ip -6 rule flush", "true"]
)
def test_remove_does_what_is_left_to_do(world: World, gone: str) -> None:
    """``remove`` removes what is left and ignores what is already gone."""
    world.enrol()
    world.pod.run(*gone.split())
    world.call(pod.remove, NETWORK)
    assert "ts0" not in world.state()
    assert "5180:\t" not in world.state()
    assert "tailscale-cni" not in world.state()


def test_remove_where_nothing_was_done(world: World) -> None:
    """``remove`` changes nothing in a pod that was never prepared."""
    world.pod.run("ip", "link", "del", "ts0")
    before = world.state()
    world.call(pod.remove, NETWORK)
    assert world.state() == before


# -- hosts that lack something


def test_a_pod_whose_ipv6_is_switched_off() -> None:
    """In a namespace with ``disable_ipv6=1`` the node works over IPv4, and IPv6 is neither touched nor missed."""
    with World(*NO_IPV6) as world:
        works_on_ipv4_alone(world)


def test_a_kernel_without_ipv6() -> None:
    """On a kernel without /proc/sys/net/ipv6 the node works over IPv4."""

    def without(world: World) -> None:
        enter_own_mounts()
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net/ipv6"], check=True)
        works_on_ipv4_alone(world)

    with World(*NO_IPV6) as world:
        in_thread(lambda: world.call(without, world))


def works_on_ipv4_alone(world: World) -> None:
    """Assert that a node with addresses of both IP versions works over IPv4, from ``prepare`` to ``remove``."""
    world.enrol()
    assert world.call(pod.verify, NETWORK, TAILNET) == []
    assert not any(rule.startswith("51") for rule in world.pod.run("ip", "-6", "rule").splitlines())
    world.say(world.pod, 4, PEER[4], b"hi")
    assert world.to_tailnet() == (NODE[4], PEER[4], b"hi")
    assert world.call(pod.apply, NETWORK, TAILNET) is False
    world.call(pod.remove, NETWORK)
    assert world.pod.links() == {"lo", "eth0"}


def test_read_only_sysctls(world: World) -> None:
    """With a read-only /proc/sys, ``prepare`` fails only if it has to change a value."""

    def prepare_read_only() -> None:
        enter_own_mounts()
        for options in (["--bind", "/proc/sys", "/proc/sys"], ["-o", "remount,bind,ro", "/proc/sys"]):
            subprocess.run(["mount", *options], check=True)
        world.call(pod.prepare, NETWORK)

    refusal = r"^set /proc/sys/net/ipv./conf/ts0/\w+ to \d: Read-only file system$"
    with pytest.raises(errors.NetworkFailed, match=refusal):
        in_thread(prepare_read_only)
    world.call(pod.prepare, NETWORK)
    in_thread(prepare_read_only)


def test_a_kernel_without_netfilter(world: World) -> None:
    """Without netfilter sockets, ``prepare`` raises NoFirewall and suggests ``antiSpoofing: false``. ``remove`` succeeds."""

    def without() -> None:
        refuse_netfilter_sockets()
        with pytest.raises(errors.NoFirewall) as caught:
            world.call(pod.prepare, NETWORK)
        assert "antiSpoofing: false" in caught.value.advice
        open_network = NETWORK._replace(anti_spoofing=False)
        world.enrol(open_network)
        assert world.call(pod.verify, open_network, TAILNET) == []
        world.call(pod.remove, NETWORK)

    in_thread(without)
    assert "5180:\t" not in world.state()


def test_a_kernel_with_netfilter_and_without_nf_tables(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel with netfilter but without nf_tables, ``prepare`` raises NoFirewall too. ``remove`` succeeds."""
    monkeypatch.setattr(nftables, "NFNL_SUBSYS_NFTABLES", NFNL_SUBSYS_NFT_COMPAT)
    with pytest.raises(errors.NoFirewall, match="Invalid argument"):
        world.call(pod.prepare, NETWORK)
    with pytest.raises(errors.NoFirewall, match="Operation not supported"):
        world.call(firewall._transact, "remove", firewall._removal())
    world.call(pod.remove, NETWORK)


# -- resources, threads and errors


def test_nothing_is_left_open(world: World) -> None:
    """After success and after failure no thread and no descriptor is left, and the calling thread is in its old namespace."""

    def possessions() -> tuple[object, ...]:
        namespace = Path("/proc/thread-self/ns/net").stat().st_ino
        return namespace, os.listdir("/proc/self/fd"), os.listdir("/proc/self/task"), threading.enumerate()  # noqa: PTH208

    world.enrol()
    before = possessions()
    world.enrol()
    world.call(pod.verify, NETWORK, TAILNET)
    world.call(pod.remove, NETWORK)
    with pytest.raises(errors.NetworkFailed):
        world.call(pod.apply, NETWORK, TAILNET)
    assert possessions() == before


def test_two_pods_at_once() -> None:
    """Calls for two pods in two threads of one process do not affect each other."""
    worlds = [World(), World()]
    with ThreadPoolExecutor(2) as callers:
        for call in [callers.submit(world.enrol) for world in worlds]:
            call.result()
    assert [world.call(pod.verify, NETWORK, TAILNET) for world in worlds] == [[], []]
    for world in worlds:
        world.close()


def test_errors_say_what_was_attempted(world: World) -> None:
    """If the kernel refuses a change, NetworkFailed says what was attempted and gives the kernel's reason."""
    with pytest.raises(errors.NetworkFailed, match=r"^look for ts9: it is not there$"):
        world.call(pod.prepare, NETWORK._replace(interface="ts9"))
    too_large = NETWORK._replace(mtu=1 << 20)
    with pytest.raises(
        errors.NetworkFailed, match=r"^bring ts0 up with an MTU of 1048576: Invalid argument$"
    ):
        world.call(pod.prepare, too_large)


def in_thread(body: Callable[[], Any]) -> None:
    """Run ``body`` in a new thread and raise what it raises. What ``body`` changes of the thread ends with the thread."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(body).result()


def enter_own_mounts() -> None:
    """Give the calling thread its own mount namespace, whose mounts the rest of the machine does not see."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def refuse_netfilter_sockets() -> None:
    """Make the kernel refuse the calling thread's netfilter sockets, like a kernel without netfilter. Uses seccomp(2)."""
    socket_call = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
    load, if_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    program = [
        (load, 0, 0, 0),  # the call's number
        (if_equal, 0, 5, socket_call),
        (load, 0, 0, 16),  # the call's first argument
        (if_equal, 0, 3, socket.AF_NETLINK),
        (load, 0, 0, 32),  # the call's third argument
        (if_equal, 0, 1, NETLINK_NETFILTER),
        (answer, 0, 0, 0x00050000 | errno.EPROTONOSUPPORT),  # SECCOMP_RET_ERRNO
        (answer, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((38, 1, 0, 0, 0), (22, 2, ctypes.byref(filter_))):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
