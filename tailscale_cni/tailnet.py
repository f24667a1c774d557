"""What is the same on every tailnet: where addresses are (tailscale.com/net/tsaddr), and what nodes and tags can be called.

Imports nothing of ours.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

RANGES: tuple[Network, ...] = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
"""Where every node's addresses are."""

MAX_TAG = 100
"""Characters of a tag. ``tag:ns-`` and the longest namespace have 70. Tailscale documents no limit."""


def is_tailnet(address: Address) -> bool:
    """Whether an address is in the tailnet's ranges."""
    return any(address in network for network in RANGES)


def overlapping(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Those of the networks that have addresses in common with the tailnet's ranges."""
    return tuple(n for n in networks if any(n.version == r.version and n.overlaps(r) for r in RANGES))


def is_label(text: str) -> bool:
    """Whether a node can be called so: a DNS label, RFC 1123."""
    valid = 0 < len(text) <= 63 and text.isascii() and text == text.lower() == text.strip("-")
    return valid and text.replace("-", "").isalnum()


def is_tag(text: str) -> bool:
    """Whether it is a tag, as the control plane takes it (tailcfg.CheckTag)."""
    name = text.removeprefix("tag:")
    valid = name != text and len(text) <= MAX_TAG and name.isascii()
    return valid and name[:1].isalpha() and name.replace("-", "").isalnum()
