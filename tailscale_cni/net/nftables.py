"""The messages of nf_tables as bytes, and a comparison of the kernel's lists with the messages that were sent. No rule is defined here.

This module encodes the few attributes that we need without pyroute2. pyroute2's classes for nftables import asyncio, which takes 40 to
70 ms, and encode the table in 5 ms instead of 0.3 ms (docs/adr/0009-netlink.md). Numbers are from linux/netfilter/nf_tables.h, unless
another header is named.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, TypeAlias, Union

from pyroute2.netlink import NETLINK_NETFILTER, NLA_F_NESTED
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES

from . import netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..tailnet import Network

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE = 0, 1, 2, 3, 4, 6, 7  # NFT_MSG_…
NF_DROP, NF_ACCEPT = 0, 1  # linux/netfilter.h
NF_INET_PRE_ROUTING, NF_INET_FORWARD = 0, 2  # linux/netfilter.h
META_IIFNAME, META_OIFNAME = 6, 7  # NFT_META_…

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h, NFNL_MSG_BATCH_…
_NFGENMSG = struct.Struct("!BBH")  # linux/netfilter/nfnetlink.h, struct nfgenmsg: family, version, resource
_NLATTR = struct.Struct("=HH")  # linux/netlink.h, struct nlattr: length in bytes with the header, type
_TYPE_MASK = 0x3FFF  # linux/netlink.h, NLA_TYPE_MASK
_NFPROTO_INET = 1  # linux/netfilter.h
_NFT_GOTO = -4
_REG_VERDICT, _REG_1, _CMP_EQ, _NETWORK_HEADER, _META_NFPROTO = 0, 1, 0, 1, 15
_RULE_USERDATA = 7  # NFTA_RULE_USERDATA
_USERDATA_COMMENT = 0  # libnftnl/udata.h, NFTNL_UDATA_RULE_COMMENT
_IFNAMSIZ = 16  # linux/if.h

Value: TypeAlias = Union[int, str, bytes, "tuple[Value, ...]", "list[Value]", None]
"""The value of an attribute. An int has 32 bits, big endian. A str ends with a zero byte. The elements of a tuple are attributes that are
numbered from 1, as the kernel's header lists them; None leaves a number out. The elements of a list are attributes that all have
type 1 (NFTA_LIST_ELEM)."""


def message(command: int, flags: int, attributes: tuple[Value, ...]) -> bytes:
    """A message for the inet family, which covers IPv4 and IPv6."""
    return netlink.pack(_kind(command), flags, _body(attributes))


def transact(messages: list[bytes]) -> list[bytes]:
    """Have the kernel do all of the messages or none (linux: net/netfilter/nfnetlink.c); return its acknowledgements. Raises OSError."""
    header = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    begin, end = (netlink.pack(kind, 0, header) for kind in (_BATCH_BEGIN, _BATCH_END))
    return netlink.request(NETLINK_NETFILTER, b"".join([begin, *messages, end]))


def dump(command: int, attributes: tuple[Value, ...]) -> list[bytes]:
    """List tables, chains or rules: the attributes of each, as bytes. Raises OSError."""
    found = netlink.dump(NETLINK_NETFILTER, _kind(command), _body(attributes))
    return [answer[netlink.HEADER.size + _NFGENMSG.size :] for answer in found]


def comparison(key: int, interface: str) -> Iterator[Value]:
    """Expressions: the packet's interface (``key`` is META_IIFNAME or META_OIFNAME) has that name."""
    yield ("meta", (_REG_1, key))
    yield _equals(interface.encode().ljust(_IFNAMSIZ, b"\0"))


def membership(network: Network, offset: int) -> Iterator[Value]:
    """Expressions: the address at that offset of the IP header, in bytes, is in the network. nft would write the same expressions."""
    yield ("meta", (_REG_1, _META_NFPROTO))
    yield _equals(bytes([socket.AF_INET if network.version == 4 else socket.AF_INET6]))
    whole, rest = divmod(network.prefixlen, 8)
    length = network.max_prefixlen // 8 if rest else whole
    if length:
        yield ("payload", (_REG_1, _NETWORK_HEADER, offset, length))
        if rest:
            yield ("bitwise", (_REG_1, _REG_1, length, (network.netmask.packed,), (bytes(length),)))
        yield _equals(network.network_address.packed[:length])


def verdict(target: int | str) -> Value:
    """An expression: the verdict on the packet. NF_DROP, NF_ACCEPT, or the name of the chain to go to."""
    code, chain = (_NFT_GOTO, target) if isinstance(target, str) else (target, None)
    return ("immediate", (_REG_VERDICT, (None, (code, chain))))


def comment(text: str) -> bytes:
    """The user data of a rule that nft lists as a comment of up to 127 bytes."""
    data = text.encode() + b"\0"
    return bytes([_USERDATA_COMMENT, len(data)]) + data


def comment_of(rule: bytes) -> str:
    """The comment of a rule, given its attributes, or "" if it has none."""
    data = dict(_parse(rule)).get(_RULE_USERDATA, b"")
    return data[2:].rstrip(b"\0").decode(errors="replace") if data[:1] == bytes([_USERDATA_COMMENT]) else ""


def holds(data: bytes, value: Value) -> bool:
    """Whether an attribute's bytes, as the kernel lists them, hold that value.

    Attributes that the value does not have are ignored, because the kernel adds handles and defaults. The order of attributes is ignored,
    too, because the kernel lists them in its own order.
    """
    if isinstance(value, tuple):
        found = dict(_parse(data))
        wanted = ((number, element) for number, element in enumerate(value, 1) if element is not None)
        return all(number in found and holds(found[number], element) for number, element in wanted)
    if isinstance(value, list):
        elements = [element for _, element in _parse(data)]
        return len(elements) == len(value) and all(map(holds, elements, value))
    return data == _encode(value)


def _kind(command: int) -> int:
    return int(NFNL_SUBSYS_NFTABLES) << 8 | command


def _body(attributes: tuple[Value, ...]) -> bytes:
    return _NFGENMSG.pack(_NFPROTO_INET, 0, 0) + _encode(attributes)


def _equals(value: bytes) -> Value:
    """An expression: register 1 is this value."""
    return ("cmp", (_REG_1, _CMP_EQ, (value,)))


def _encode(value: Value) -> bytes:
    """The bytes of an attribute with that value, without its header."""
    if isinstance(value, tuple):
        return b"".join(_attribute(n, element) for n, element in enumerate(value, 1) if element is not None)
    if isinstance(value, list):
        return b"".join(_attribute(1, element) for element in value)
    if isinstance(value, int):
        return struct.pack("!i", value)
    return value.encode() + b"\0" if isinstance(value, str) else value or b""


def _attribute(number: int, value: Value) -> bytes:
    """A complete attribute, padded to the beginning of the next attribute."""
    data = _encode(value)
    length = _NLATTR.size + len(data)
    kind = number | NLA_F_NESTED if isinstance(value, tuple | list) else number
    return _NLATTR.pack(length, kind) + data.ljust(netlink.align(length) - _NLATTR.size, b"\0")


def _parse(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the attributes in these bytes. Stops at an invalid length."""
    offset = 0
    while offset + _NLATTR.size <= len(data):
        length, kind = _NLATTR.unpack_from(data, offset)
        if length < _NLATTR.size:
            return
        yield kind & _TYPE_MASK, data[offset + _NLATTR.size : offset + length]
        offset += netlink.align(length)
