"""Anti-spoofing in the pod's network namespace, as one nftables table that is replaced as a whole.

What claims to come from the tailnet must come in by the node's interface. The table only ever drops, so it
does not disturb a firewall that the pod has itself; its priorities lie between the standard ones, so that
there is room on both sides.

nftables takes a batch of netlink messages as one transaction (linux: net/netfilter/nfnetlink.c). pyroute2 can
do that for one command at a time only, and its messages cost 2 ms of CPU per rule, so these few are written
here, with the standard library. Each rule carries, as nft's comment, what it is for; that is also how it is found again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from .. import errors
from ..tailnet import RANGES
from .exchange import ACK, APPEND, CREATE, DUMP, HEADER, aligned, exchange, frame
from .model import host_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..tailnet import Address, Network
    from .model import PodNetwork

TABLE = "tailscale-cni"
ARRIVING = "arriving"
CLAIMING = "claiming-the-tailnet"
PASSING = "passing-through"

NETLINK_NETFILTER, NLA_HEADER, NLA_F_NESTED = 12, 4, 0x8000  # linux/netlink.h
BATCH_BEGIN, BATCH_END, NFNL_SUBSYS_NFTABLES, NFGENMSG = 0x10, 0x11, 10, 4  # linux/netfilter/nfnetlink.h
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, GET_RULE = 0, 2, 3, 6, 7  # linux/netfilter/nf_tables.h
NFPROTO_INET, NF_INET_PRE_ROUTING, NF_INET_FORWARD = 1, 0, 2  # linux/netfilter.h
NF_DROP, NF_ACCEPT, NFT_GOTO = 0, 1, -4
REG_VERDICT, REG_1, CMP_EQ, NETWORK_HEADER = 0, 1, 0, 1  # linux/netfilter/nf_tables.h, from here on
META_IIFNAME, META_OIFNAME, META_NFPROTO = 6, 7, 15
RULE_USERDATA, USERDATA_COMMENT = 7, 0
IFNAMSIZ = 16

HOOKS = {
    ARRIVING: (NF_INET_PRE_ROUTING, -250),  # after raw (-300), before conntrack (-200) and every DNAT
    PASSING: (NF_INET_FORWARD, -50),  # after mangle (-150), before filter (0)
}
"""Where the kernel calls a chain, and when: the others' priorities are in linux/netfilter_ipv4.h."""

NO_NF_TABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""How a kernel says that it has no netlink socket for netfilter, no inet family, no nf_tables."""

Value: TypeAlias = Union[int, str, bytes, "tuple[Value, ...]", "list[Value]", None]
"""What an attribute holds. A tuple's own attributes are numbered from 1 in the order of the kernel's header,
without those that are None; a list's are all alike."""


class Filter(NamedTuple):
    """A rule of the table: its chain, what it is for, what it matches, what becomes of the packet.

    ``arriving_by`` and ``leaving_by`` are interfaces, ``source`` and ``destination`` networks; what is None
    matches everything.
    """

    chain: str
    purpose: str
    verdict: int
    arriving_by: str | None = None
    leaving_by: str | None = None
    source: Network | None = None
    destination: Network | None = None


def filters(pod: PodNetwork, addresses: tuple[Address, ...]) -> list[Filter]:
    """The rules for a pod whose node has these addresses (none yet: no addresses), in their order."""
    wanted = [
        Filter(ARRIVING, f"from the tailnet, by {pod.interface}", NF_ACCEPT, arriving_by=pod.interface),
        Filter(ARRIVING, "from the pod itself", NF_ACCEPT, arriving_by="lo"),
    ]
    for address in sorted(addresses, key=lambda a: (a.version, a)):
        own = host_network(address)
        wanted.append(Filter(ARRIVING, f"to {address}, not from the tailnet", NF_DROP, destination=own))
        wanted.append(Filter(ARRIVING, f"from {address}, which is this pod", NF_DROP, source=own))
    wanted += [
        Filter(ARRIVING, f"from {range_}, not from the tailnet", NFT_GOTO, source=range_) for range_ in RANGES
    ]
    known = sorted(set(pod.host_sources), key=lambda network: (network.version, network))
    wanted += [Filter(CLAIMING, f"{source} may", NF_ACCEPT, source=source) for source in known]
    wanted.append(Filter(CLAIMING, "nobody else may", NF_DROP))
    if not pod.forwarding:
        # IPv6 has no sysctl for it: an interface's own "forwarding" only says whether it acts as a router.
        wanted.append(Filter(PASSING, "from the tailnet to others", NF_DROP, arriving_by=pod.interface))
        wanted.append(Filter(PASSING, "from others to the tailnet", NF_DROP, leaving_by=pod.interface))
    return wanted


def protect(pod: PodNetwork, addresses: tuple[Address, ...]) -> bool:
    """Make the table what it should be; whether it was something else.

    Raises NoFirewall where the kernel has no nf_tables, NetworkFailed for everything else.
    """
    wanted = filters(pod, addresses)
    if purposes() == [filter_.purpose for filter_ in wanted]:
        return False
    _transaction("put up the anti-spoofing rules", [*_removal(), *_table(wanted)])
    return True


def unprotect() -> None:
    """Remove the table. It is no error if there is none, or no nf_tables at all."""
    try:
        _transaction("remove the anti-spoofing rules", _removal())
    except errors.NoFirewall:
        return


def missing(pod: PodNetwork, addresses: tuple[Address, ...]) -> list[str]:
    """What the rules are for that should be in the table and are not."""
    found = purposes()
    return [filter_.purpose for filter_ in filters(pod, addresses) if filter_.purpose not in found]


def purposes() -> list[str]:
    """What the rules are for that are in the table, in their order. Raises NoFirewall, NetworkFailed."""
    request = _nft_message(GET_RULE, DUMP, (TABLE,))
    # A question to a subsystem that is not there is answered with EINVAL, a transaction with EOPNOTSUPP.
    rules = _exchange("read the anti-spoofing rules", request, NO_NF_TABLES | {errno.EINVAL})
    return [_purpose(rule) for rule in rules]


def _purpose(rule: bytes) -> str:
    """The comment of a rule that the kernel listed, or nothing: then it is not one of ours."""
    offset = HEADER + NFGENMSG
    while offset < len(rule):
        length, number = struct.unpack_from("=HH", rule, offset)
        if number == RULE_USERDATA and rule[offset + NLA_HEADER] == USERDATA_COMMENT:
            return rule[offset + NLA_HEADER + 2 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += aligned(length)
    return ""


def _removal() -> list[bytes]:
    """Delete the table: make it first, so that there is one to delete (``nft`` scripts do the same)."""
    return [
        _nft_message(NEW_TABLE, CREATE, (TABLE,)),
        _nft_message(DELETE_TABLE, ACK, (TABLE,)),
    ]


def _table(wanted: list[Filter]) -> list[bytes]:
    """The messages that make the table, its chains, its rules."""
    messages = [_nft_message(NEW_TABLE, CREATE, (TABLE,))]
    for chain in (ARRIVING, CLAIMING, PASSING):
        hooked: tuple[Value, ...] = (HOOKS[chain], NF_ACCEPT, None, "filter") if chain in HOOKS else ()
        messages.append(_nft_message(NEW_CHAIN, CREATE, (TABLE, None, chain, *hooked)))
    for filter_ in wanted:
        comment = filter_.purpose.encode() + b"\0"
        userdata = bytes([USERDATA_COMMENT, len(comment)]) + comment
        rule = (TABLE, filter_.chain, None, list(_expressions(filter_)), None, None, userdata)
        messages.append(_nft_message(NEW_RULE, CREATE | APPEND, rule))
    return messages


def _expressions(rule: Filter) -> Iterator[Value]:
    """A rule as the kernel computes it: load into register 1, compare; at the end the verdict."""
    for key, interface in ((META_IIFNAME, rule.arriving_by), (META_OIFNAME, rule.leaving_by)):
        if interface is not None:
            yield ("meta", (REG_1, key))
            yield _equals(interface.encode().ljust(IFNAMSIZ, b"\0"))
    if rule.source is not None:
        yield from _in_network(rule.source, offset=12 if rule.source.version == 4 else 8)
    if rule.destination is not None:
        yield from _in_network(rule.destination, offset=16 if rule.destination.version == 4 else 24)
    verdict = (rule.verdict, CLAIMING) if rule.verdict == NFT_GOTO else (rule.verdict,)
    yield ("immediate", (REG_VERDICT, (None, verdict)))


def _in_network(network: Network, offset: int) -> Iterator[Value]:
    """The address at this offset of the packet's IP header is in this network."""
    yield ("meta", (REG_1, META_NFPROTO))
    yield _equals(bytes([socket.AF_INET if network.version == 4 else socket.AF_INET6]))
    length = network.max_prefixlen // 8
    yield ("payload", (REG_1, NETWORK_HEADER, offset, length))
    if network.prefixlen < network.max_prefixlen:
        yield ("bitwise", (REG_1, REG_1, length, (network.netmask.packed,), (bytes(length),)))
    yield _equals(network.network_address.packed)


def _equals(value: bytes) -> Value:
    """Register 1 is this value."""
    return ("cmp", (REG_1, CMP_EQ, (value,)))


def _attributes(values: tuple[Value, ...]) -> bytes:
    """Netlink attributes, numbered by their place (linux: include/uapi/linux/netlink.h, struct nlattr)."""
    return b"".join(_attribute(number, value) for number, value in enumerate(values, 1) if value is not None)


def _attribute(number: int, value: Value) -> bytes:
    """One of them; integers are 32 bits, big endian, as nf_tables has them."""
    if isinstance(value, tuple):
        number, payload = number | NLA_F_NESTED, _attributes(value)
    elif isinstance(value, list):
        number, payload = number | NLA_F_NESTED, b"".join(_attribute(1, element) for element in value)
    elif isinstance(value, int):
        payload = struct.pack("!i", value)
    else:
        payload = value.encode() + b"\0" if isinstance(value, str) else value or b""
    length = NLA_HEADER + len(payload)
    return struct.pack("=HH", length, number) + payload.ljust(aligned(length) - NLA_HEADER, b"\0")


def _nft_message(command: int, flags: int, attributes: tuple[Value, ...]) -> bytes:
    """A message to nf_tables, for the inet family: IPv4 and IPv6."""
    return _message(NFNL_SUBSYS_NFTABLES << 8 | command, flags, NFPROTO_INET, 0, _attributes(attributes))


def _message(kind: int, flags: int, family: int, subsystem: int, attributes: bytes = b"") -> bytes:
    """A netlink message with netfilter's header (linux/netfilter/nfnetlink.h, struct nfgenmsg)."""
    body = struct.pack("!BBH", family, 0, subsystem) + attributes
    return frame(kind, flags, body)


def _transaction(what: str, messages: list[bytes]) -> None:
    """Let the kernel do all of it, or nothing. Raises NoFirewall, NetworkFailed."""
    begin, end = (_message(kind, 0, 0, NFNL_SUBSYS_NFTABLES) for kind in (BATCH_BEGIN, BATCH_END))
    if not _exchange(what, b"".join([begin, *messages, end])):
        raise errors.NetworkFailed(what=what, reason="the kernel gave no answer")


def _exchange(what: str, request: bytes, absent: frozenset[int] = NO_NF_TABLES) -> list[bytes]:
    """Ask nf_tables. Raises NetworkFailed for the first refusal, NoFirewall if its number is one of ``absent``."""
    try:
        return exchange(NETLINK_NETFILTER, request)
    except OSError as e:
        refused = errors.NoFirewall if e.errno in absent else errors.NetworkFailed
        raise refused(what=what, reason=os.strerror(e.errno or 0)) from None
