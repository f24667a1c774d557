"""What should be in a pod's network namespace, as values, and the rules and routes that follow: pure.

It must not touch the kernel, so that what we decide can be read, and tested, without one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, NamedTuple

from ..tailnet import RANGES, is_tailnet

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..tailnet import Address, Network

SERVICE_ADDRESSES: tuple[Address, ...] = (IPv4Address("100.100.100.100"), IPv6Address("fd7a:115c:a1e0::53"))
"""Where a node answers its own pod: MagicDNS and the like (tailscale: net/tsaddr)."""

TAILNET_TABLE = 52
"""The routing table of our routes; tailscaled uses the same number."""

MAIN_TABLE = 254

MOST_PEERS = 10_000
"""Peers that a pod has a route each to, where it has to: the kernel keeps them, and a control plane can name any number."""

# In front of a tailscaled's own 5210 to 5270 and of what wg-quick and others take just before 32766, so that
# the tailnet is reached whatever else the pod runs; behind the low numbers that people choose to come first.
UNDERLAY_PRIORITY = 5160
POD_PRIORITY = 5170
TAILNET_PRIORITY = 5180
HOST_PRIORITY = 5200


LARGEST_MESSAGE = 65535 - 20 - 8
"""Bytes that UDP carries, over IPv4."""
OVERHEAD = 32 + 8
"""Bytes in front of and behind each packet: WireGuard's; and those of a peer relay, where the way leads over one (RFC 8926)."""


def host_network(address: Address) -> Network:
    """The network of this one address: /32 or /128."""
    return ip_network(address)


class PodNetwork(NamedTuple):
    """What ADD knows of a pod's network before its node has an address.

    ``host_sources`` are the tailnet-range sources that may legitimately come in by the pod's own interface:
    the host's tailnet addresses, other hosts', cluster CIDRs that overlap the range. ``worker_uid_range``
    (first, last) is given where the worker's sockets are in the pod's namespace (underlay: pod).
    """

    pod_addresses: tuple[Address, ...]
    interface: str = "ts0"
    mtu: int = 1280
    host_sources: tuple[Network, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    anti_spoofing: bool = True
    forwarding: bool = False
    worker_uid_range: tuple[int, int] | None = None

    @property
    def segments(self) -> int:
        """How many packets the pod's kernel may hand over as one.

        As many as fit into one UDP message, which is how they leave: of the kernel's own choice, 64 kB, four of 53 would need a
        second one.
        """
        return LARGEST_MESSAGE // (self.mtu + OVERHEAD)


class _Tailnet(NamedTuple):
    addresses: tuple[Address, ...]
    peers: tuple[Address, ...] = ()
    routes: tuple[Network, ...] = ()


class Tailnet(_Tailnet):
    """What the control plane gave the node.

    ``addresses`` and ``peers`` outside of the tailnet's ranges are refused (ValueError): the worker, from
    whom they come, is not trusted with another's address. ``peers`` are only used where the range overlaps
    the cluster's. ``routes`` are those that policy accepted.
    """

    __slots__ = ()

    def __new__(
        cls,
        addresses: tuple[Address, ...],
        peers: tuple[Address, ...] = (),
        routes: tuple[Network, ...] = (),
    ) -> Self:
        """Refuse what no tailnet has."""
        if foreign := [str(address) for address in addresses + peers if not is_tailnet(address)]:
            raise ValueError(f"not an address of a tailnet: {', '.join(foreign)}")
        return super().__new__(cls, addresses, peers, routes)


class Rule(NamedTuple):
    """An ``ip rule``: who looks up which table."""

    family: int
    priority: int
    table: int
    source: Address | None = None
    uids: tuple[int, int] | None = None

    def __str__(self) -> str:
        """As ``ip rule`` would say it, with the IP version in front."""
        uids = f" uidrange {self.uids[0]}-{self.uids[1]}" if self.uids else ""
        table = "main" if self.table == MAIN_TABLE else self.table
        return f"IPv{self.family} {self.priority}: from {self.source or 'all'}{uids} lookup {table}"


class Route(NamedTuple):
    """A route of the tailnet's table: by the node's interface, or thrown back to the tables after it."""

    to: Network
    throw: bool = False

    def __str__(self) -> str:
        """As ``ip route`` would say it."""
        return f"{'throw ' if self.throw else ''}{self.to}"


def rules(pod: PodNetwork, families: tuple[int, ...]) -> list[Rule]:
    """The pod's rules for these IP versions (4, 6), in the order of their priority.

    What comes in by the pod's own interface is answered there, even where it comes from a tailnet address:
    that is what a host whose node IP is a tailnet address sends. A strict reverse-path filter then lets it
    in, too.
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

    A version in which the node has no address gets none: there is nothing to send from. A route into the
    cluster is never taken from the tailnet, and a wider one (an exit node's) goes around the cluster. Of more peers than
    ``MOST_PEERS`` those with the lowest addresses are reached, always the same ones.
    """
    spoken = {address.version for address in tailnet.addresses}.intersection(families)
    peers = tailnet.peers
    if len(peers) > MOST_PEERS:
        peers = tuple(sorted(peers, key=lambda peer: (peer.version, int(peer)))[:MOST_PEERS])
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
    """Whether a network is a part of another, or the same; networks of different versions never are."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
