"""The wanted configuration of a pod's network namespace, as values: pure functions from a pod and its tailnet to rules and routes.

This module must not call the kernel, so that its decisions can be tested anywhere, and must not import pyroute2.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, NamedTuple

from ..tailnet import RANGES, is_tailnet

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..tailnet import Address, Network

SERVICE_ADDRESSES: tuple[Address, ...] = (IPv4Address("100.100.100.100"), IPv6Address("fd7a:115c:a1e0::53"))
"""The addresses at which a node serves its own pod, for example with MagicDNS (tailscale: net/tsaddr)."""

TAILNET_TABLE = 52
"""The number of our routing table; tailscaled uses the same one."""

MAIN_TABLE = 254  # linux/rtnetlink.h, RT_TABLE_MAIN

MAX_PEERS = 10_000
"""The most routes to peers of a pod that needs a route per peer. The control plane decides how many peers there are."""

# Before tailscaled's own 5210 to 5270 and the priorities just below 32766 of wg-quick and others, so that the pod reaches the
# tailnet whatever else it runs; after the low numbers that people choose for rules of their own.
UNDERLAY_PRIORITY = 5160
POD_PRIORITY = 5170
TAILNET_PRIORITY = 5180
HOST_PRIORITY = 5200

MAX_DATAGRAM = 65535 - 20 - 8
"""The most bytes that a UDP datagram carries over IPv4."""

OVERHEAD = 32 + 8
"""Bytes that WireGuard and a peer relay (RFC 8926) add to each packet."""


def host_network(address: Address) -> Network:
    """The network of this one address: /32 or /128."""
    return ip_network(address)


class PodNetwork(NamedTuple):
    """A pod's network, as ADD knows it before the pod's node has an address.

    ``pod_addresses`` are those of the primary CNI. ``host_sources`` are the networks in the tailnet's ranges whose packets may arrive on
    the pod's other interfaces: the tailnet addresses of hosts, and cluster CIDRs that overlap the ranges. ``worker_uid_range`` (first,
    last) is set if the worker's sockets are in the pod's namespace (underlay: pod). ``tun_owner`` is the user ID that owns the interface;
    None if it does not matter.
    """

    pod_addresses: tuple[Address, ...]
    interface: str = "ts0"
    mtu: int = 1280
    host_sources: tuple[Network, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    anti_spoofing: bool = True
    forwarding: bool = False
    worker_uid_range: tuple[int, int] | None = None
    tun_owner: int | None = None

    @property
    def segments(self) -> int:
        """The number of packets that the pod's kernel may hand over as one (IFLA_GSO_MAX_SEGS).

        They leave in one UDP datagram. With the kernel's default of 64 kB, 4 of 53 packets would need a second datagram.
        """
        return MAX_DATAGRAM // (self.mtu + OVERHEAD)


class _Tailnet(NamedTuple):
    addresses: tuple[Address, ...]
    peers: tuple[Address, ...] = ()
    routes: tuple[Network, ...] = ()


class Tailnet(_Tailnet):
    """The node's addresses, peers and routes, from the control plane.

    ``addresses`` and ``peers`` outside of the tailnet's ranges are refused (ValueError), because the worker that reports them is not
    trusted. ``peers`` are only used if the cluster uses addresses of a range. ``routes`` are the routes of subnet routers and exit nodes
    that the pod accepts.
    """

    __slots__ = ()

    def __new__(
        cls,
        addresses: tuple[Address, ...],
        peers: tuple[Address, ...] = (),
        routes: tuple[Network, ...] = (),
    ) -> Self:
        """Refuse addresses that are not a tailnet's."""
        if foreign := [str(address) for address in addresses + peers if not is_tailnet(address)]:
            raise ValueError(f"not an address of a tailnet: {', '.join(foreign)}")
        return super().__new__(cls, addresses, peers, routes)


class Rule(NamedTuple):
    """An ``ip rule``: which packets are looked up in which table. ``family`` is 4 or 6; ``uids`` are the first and the last user ID."""

    family: int
    priority: int
    table: int
    source: Address | None = None
    uids: tuple[int, int] | None = None

    def __str__(self) -> str:
        """The IP version, and the rule as ``ip rule`` prints it."""
        uids = f" uidrange {self.uids[0]}-{self.uids[1]}" if self.uids else ""
        table = "main" if self.table == MAIN_TABLE else self.table
        return f"IPv{self.family} {self.priority}: from {self.source or 'all'}{uids} lookup {table}"


class Route(NamedTuple):
    """A route of the tailnet's table: to the node's interface, or (``throw``) back to the tables of later rules."""

    to: Network
    throw: bool = False

    def __str__(self) -> str:
        """The route as ``ip route`` prints it."""
        return f"{'throw ' if self.throw else ''}{self.to}"


def rules(pod: PodNetwork, families: tuple[int, ...]) -> list[Rule]:
    """The pod's rules for these IP versions (4, 6), in the order of their priority.

    Packets from the pod's own addresses leave through the primary CNI's interface, even to a tailnet address. So a host whose node IP is a
    tailnet address gets its answers there, and a strict reverse-path filter accepts the host's packets.
    """
    wanted = []
    for family in families:
        if pod.worker_uid_range:
            wanted.append(Rule(family, UNDERLAY_PRIORITY, MAIN_TABLE, uids=pod.worker_uid_range))
        own = (address for address in pod.pod_addresses if address.version == family)
        wanted += [Rule(family, POD_PRIORITY, MAIN_TABLE, source=address) for address in own]
        wanted.append(Rule(family, TAILNET_PRIORITY, TAILNET_TABLE))
    return wanted


def routes(pod: PodNetwork, tailnet: Tailnet, families: tuple[int, ...]) -> list[Route]:
    """The routes of the tailnet's table for these IP versions.

    An IP version in which the node has no address gets no routes. A route into the cluster is never accepted from the tailnet, and the
    cluster's networks are excluded from wider routes, such as an exit node's. If there are more than MAX_PEERS peers, those with the
    lowest addresses get a route.
    """
    spoken = {address.version for address in tailnet.addresses}.intersection(families)
    peers = tailnet.peers
    if len(peers) > MAX_PEERS:
        peers = tuple(sorted(peers, key=lambda peer: (peer.version, int(peer)))[:MAX_PEERS])
    wanted: set[Route] = set()
    for range_, service in zip(RANGES, SERVICE_ADDRESSES, strict=True):
        if range_.version not in spoken:
            continue
        if overlaps_cluster(pod, range_):
            wanted |= {Route(host_network(peer)) for peer in (*peers, service) if peer in range_}
        else:
            wanted.add(Route(range_))
    cluster = [cidr for cidr in pod.cluster_cidrs if cidr.version in spoken]
    if accepted := [route for route in tailnet.routes if route.version in spoken]:
        wanted |= {Route(route) for route in accepted if not any(within(route, cidr) for cidr in cluster)}
        wanted |= {Route(cidr, throw=True) for cidr in cluster}
    own = {host_network(address) for address in pod.pod_addresses}
    return sorted((route for route in wanted if route.to not in own), key=lambda r: (r.to.version, str(r)))


def overlaps_cluster(pod: PodNetwork, range_: Network) -> bool:
    """Whether the cluster uses addresses of this range of the tailnet."""
    used = (*pod.cluster_cidrs, *(host_network(address) for address in pod.pod_addresses))
    return any(network.overlaps(range_) for network in used if network.version == range_.version)


def within(inner: Network, outer: Network) -> bool:
    """Whether ``inner`` is ``outer`` or a part of it; networks of different versions never are."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
