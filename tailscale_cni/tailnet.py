"""What is the same on every tailnet: where addresses are (tailscale.com/net/tsaddr). Imports nothing of ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

RANGES: tuple[Network, ...] = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
"""Where every node's addresses are."""


def is_tailnet(address: Address) -> bool:
    """Whether an address is in the tailnet's ranges."""
    return any(address in network for network in RANGES)


def overlapping(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Those of the networks that have addresses in common with the tailnet's ranges."""
    return tuple(n for n in networks if any(n.version == r.version and n.overlaps(r) for r in RANGES))
