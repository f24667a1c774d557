"""Anti-spoofing in the pod's network namespace, as one nftables table that is replaced as a whole.

What claims to come from the tailnet must come in by the node's interface. The table only ever drops, so it
does not disturb a firewall that the pod has itself; its priority lies between two of the standard ones, so
that there is room on both sides.

nftables takes a batch of netlink messages as one transaction (linux: net/netfilter/nfnetlink.c); pyroute2's
NFTSocket can only do that for one command at a time. So the messages are pyroute2's, and the socket is ours:
the kernel has answered when ``sendto`` returns, there is nothing to wait for. Each rule carries, as nft's
comment, what it is for; that is also how it is found again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from .. import errors
from .model import TAILNET_RANGES, host_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Address, Network, PodNetwork

TABLE = "tailscale-cni"
ARRIVING = "arriving"
CLAIMING = "claiming-the-tailnet"

PRIORITY = -250  # after raw (-300), before conntrack (-200) and every DNAT (linux/netfilter_ipv4.h)
NFPROTO_INET = 1  # linux/netfilter.h
NF_INET_PRE_ROUTING = 0
NF_DROP, NF_ACCEPT, NFT_GOTO = 0, 1, -4  # linux/netfilter.h, linux/netfilter/nf_tables.h
NFT_REG_VERDICT, NFT_REG_1 = 0, 1
NFT_META_IIFNAME, NFT_META_NFPROTO = 6, 15
NFT_PAYLOAD_NETWORK_HEADER, NFT_CMP_EQ = 1, 0
BATCH_BEGIN, BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
NETLINK_NETFILTER = 12  # linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSG_HEADER = 16
RECEIVE_BUFFER = 1 << 17  # more than the kernel puts into one answer
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
IFNAMSIZ = 16

NO_NF_TABLES = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
"""How a kernel says that it has no netlink socket for netfilter, no inet family, no nf_tables."""


@dataclass(frozen=True)
class Filter:
    """A rule of the table: its chain, what it is for, what it matches, what becomes of the packet.

    ``arriving_by`` is an interface, ``source`` and ``destination`` networks; what is None matches everything.
    """

    chain: str
    purpose: str
    verdict: int
    arriving_by: str | None = None
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
        Filter(ARRIVING, f"from {range_}, not from the tailnet", NFT_GOTO, source=range_)
        for range_ in TAILNET_RANGES
    ]
    known = sorted(set(pod.host_sources), key=lambda network: (network.version, network))
    wanted += [Filter(CLAIMING, f"{source} may", NF_ACCEPT, source=source) for source in known]
    return [*wanted, Filter(CLAIMING, "nobody else may", NF_DROP)]


def protect(pod: PodNetwork, addresses: tuple[Address, ...]) -> bool:
    """Make the table what it should be; whether it was something else.

    Raises NoFirewall where the kernel has no nf_tables, NetworkFailed for everything else.
    """
    wanted = filters(pod, addresses)
    if purposes() == [rule.purpose for rule in wanted]:
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
    return [rule.purpose for rule in filters(pod, addresses) if rule.purpose not in found]


def purposes() -> list[str]:
    """What the rules are for that are in the table, in their order. Raises NoFirewall, NetworkFailed."""
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
    from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE, nft_rule_msg

    request = _message(nft_rule_msg, NFT_MSG_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, NFTA_RULE_TABLE=TABLE)
    found: list[str] = []
    for reply in _exchange("read the anti-spoofing rules", _encode([request])):
        rule = nft_rule_msg(reply)
        rule.decode()
        found.append(str(rule.get_attr("NFTA_RULE_USERDATA")))
    return found


def _removal() -> list[Any]:
    """Delete the table: make it first, so that there is one to delete (``nft`` scripts do the same)."""
    from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
    from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE, nft_table_msg

    return [
        _message(nft_table_msg, NFT_MSG_NEWTABLE, NLM_F_REQUEST | NLM_F_CREATE, NFTA_TABLE_NAME=TABLE),
        _message(nft_table_msg, NFT_MSG_DELTABLE, NLM_F_REQUEST | NLM_F_ACK, NFTA_TABLE_NAME=TABLE),
    ]


def _table(wanted: list[Filter]) -> list[Any]:
    """The messages that make the table, its two chains, its rules."""
    from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST
    from pyroute2.netlink.nfnetlink import nftsocket as nft

    new = NLM_F_REQUEST | NLM_F_CREATE
    hooked = {
        "NFTA_CHAIN_HOOK": _attrs(NFTA_HOOK_HOOKNUM=NF_INET_PRE_ROUTING, NFTA_HOOK_PRIORITY=PRIORITY),
        "NFTA_CHAIN_POLICY": NF_ACCEPT,
        "NFTA_CHAIN_TYPE": "filter",
    }

    def chain(name: str, **attributes: object) -> Any:
        where = {"NFTA_CHAIN_TABLE": TABLE, "NFTA_CHAIN_NAME": name}
        return _message(nft.nft_chain_msg, nft.NFT_MSG_NEWCHAIN, new, **where, **attributes)

    def rule(filter_: Filter) -> Any:
        where = {"NFTA_RULE_TABLE": TABLE, "NFTA_RULE_CHAIN": filter_.chain}
        what = {"NFTA_RULE_EXPRESSIONS": list(_expressions(filter_)), "NFTA_RULE_USERDATA": filter_.purpose}
        return _message(nft.nft_rule_msg, nft.NFT_MSG_NEWRULE, new | NLM_F_APPEND, **where, **what)

    table = _message(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, new, NFTA_TABLE_NAME=TABLE)
    return [table, chain(ARRIVING, **hooked), chain(CLAIMING), *map(rule, wanted)]


def _expressions(rule: Filter) -> Iterator[dict[str, Any]]:
    """A rule as the kernel computes it: load into register 1, compare; at the end the verdict."""
    if rule.arriving_by is not None:
        yield _expression("meta", NFTA_META_KEY=NFT_META_IIFNAME, NFTA_META_DREG=NFT_REG_1)
        yield _equals(rule.arriving_by.encode().ljust(IFNAMSIZ, b"\0"))
    if rule.source is not None:
        yield from _address(rule.source, offset=12 if rule.source.version == 4 else 8)
    if rule.destination is not None:
        yield from _address(rule.destination, offset=16 if rule.destination.version == 4 else 24)
    verdict = _attrs(NFTA_VERDICT_CODE=rule.verdict)
    if rule.verdict == NFT_GOTO:
        verdict = _attrs(NFTA_VERDICT_CODE=rule.verdict, NFTA_VERDICT_CHAIN=CLAIMING)
    then = _attrs(NFTA_DATA_VERDICT=verdict)
    yield _expression("immediate", NFTA_IMMEDIATE_DREG=NFT_REG_VERDICT, NFTA_IMMEDIATE_DATA=then)


def _address(network: Network, offset: int) -> Iterator[dict[str, Any]]:
    """An address of the packet's IP header, at this offset, is in this network."""
    protocol = socket.AF_INET if isinstance(network, IPv4Network) else socket.AF_INET6
    length = network.max_prefixlen // 8
    yield _expression("meta", NFTA_META_KEY=NFT_META_NFPROTO, NFTA_META_DREG=NFT_REG_1)
    yield _equals(bytes([protocol]))
    yield _expression(
        "payload",
        NFTA_PAYLOAD_DREG=NFT_REG_1,
        NFTA_PAYLOAD_BASE=NFT_PAYLOAD_NETWORK_HEADER,
        NFTA_PAYLOAD_OFFSET=offset,
        NFTA_PAYLOAD_LEN=length,
    )
    if network.prefixlen < network.max_prefixlen:
        yield _expression(
            "bitwise",
            NFTA_BITWISE_SREG=NFT_REG_1,
            NFTA_BITWISE_DREG=NFT_REG_1,
            NFTA_BITWISE_LEN=length,
            NFTA_BITWISE_MASK=_attrs(NFTA_DATA_VALUE=network.netmask.packed),
            NFTA_BITWISE_XOR=_attrs(NFTA_DATA_VALUE=bytes(length)),
        )
    yield _equals(network.network_address.packed)


def _equals(value: bytes) -> dict[str, Any]:
    """Register 1 is this value."""
    return _expression(
        "cmp", NFTA_CMP_SREG=NFT_REG_1, NFTA_CMP_OP=NFT_CMP_EQ, NFTA_CMP_DATA=_attrs(NFTA_DATA_VALUE=value)
    )


def _expression(name: str, **attributes: object) -> dict[str, Any]:
    return _attrs(NFTA_EXPR_NAME=name, NFTA_EXPR_DATA=_attrs(**attributes))


def _attrs(**attributes: object) -> dict[str, Any]:
    return {"attrs": list(attributes.items())}


def _message(kind: Any, command: int, flags: int, **attributes: object) -> Any:
    """A message of pyroute2's for the inet family."""
    from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES

    message = kind()
    message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | command
    message["header"]["flags"] = flags
    message["nfgen_family"] = NFPROTO_INET
    message["attrs"] = list(attributes.items())
    return message


def _transaction(what: str, messages: list[Any]) -> None:
    """Let the kernel do all of it, or nothing."""
    from pyroute2.netlink import NLM_F_REQUEST
    from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg

    begin, end = nfgen_msg(), nfgen_msg()
    for bracket, kind in ((begin, BATCH_BEGIN), (end, BATCH_END)):
        bracket["res_id"] = NFNL_SUBSYS_NFTABLES
        bracket["header"]["type"], bracket["header"]["flags"] = kind, NLM_F_REQUEST
    if not list(_exchange(what, _encode([begin, *messages, end]))):
        raise errors.NetworkFailed(what=what, reason="the kernel gave no answer")


def _encode(messages: list[Any]) -> bytes:
    """The messages as bytes, numbered."""
    for number, message in enumerate(messages, 1):
        message["header"]["sequence_number"] = number
        message.encode()
    return b"".join(bytes(message.data) for message in messages)


def _exchange(what: str, request: bytes) -> list[bytes]:
    """Send, and return the messages that the kernel answers, acknowledgements too.

    Raises NoFirewall or NetworkFailed for the first refusal.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(request))
            netlink.sendto(request, (0, 0))
            return list(_answers(netlink))
    except OSError as e:
        refused = errors.NoFirewall if e.errno in NO_NF_TABLES else errors.NetworkFailed
        raise refused(what=what, reason=os.strerror(e.errno or 0)) from None


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The messages that wait on the socket. A refusal is raised as the OSError that it is."""
    while True:
        try:
            datagram = netlink.recv(RECEIVE_BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(datagram):
            length, kind = struct.unpack_from("=IH", datagram, offset)
            if kind == NLMSG_ERROR and (code := struct.unpack_from("=i", datagram, offset + NLMSG_HEADER)[0]):
                raise OSError(-code, os.strerror(-code))
            if kind == NLMSG_DONE:
                return
            yield datagram[offset : offset + length]
            offset += length + 3 & ~3
