"""Links, addresses, rules and routes of the calling thread's network namespace, as values of ``model``, through pyroute2's messages.

pyroute2 encodes and decodes the messages; ``netlink`` sends and receives them. ``model`` defines the wanted configuration; ``pod`` and
``host`` decide when to apply it. Every function raises NetworkFailed. Constants without a header are from linux/rtnetlink.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroute2.netlink import NETLINK_ROUTE, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, nla, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from .. import errors
from . import netlink
from .model import TAILNET_TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..tailnet import Address, Network

RTN_UNICAST, RTN_THROW, RTPROT_STATIC = 1, 9, 4
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RTM_FAMILY, RTM_TABLE = 0, 4
"""The offsets of family and table in struct rtmsg, in bytes."""

IFF_UP = 0x1  # linux/if.h
IFF_TUN = 0x1  # linux/if_tun.h
RTEXT_FILTER_SKIP_STATS = 1 << 3

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = {family: version for version, family in FAMILIES.items()}
EVERYTHING = {socket.AF_INET: ip_network("0.0.0.0/0"), socket.AF_INET6: ip_network("::/0")}

FIB_RULE_INVERT = 0x2  # linux/fib_rules.h
RULE_PROTOCOL = 52
"""FRA_PROTOCOL of our rules. It lets the kernel tell our rules from more specific rules of other programs.

The kernel treats a rule as equal to an existing rule that has further selectors. Without this, the kernel would refuse our rule with
EEXIST if such a rule exists, and deleting our rule would delete that rule (linux: net/core/fib_rules.c).
"""

NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""The errors with which a kernel without IPv6 answers requests for IPv6."""

SELECTORS = (
    *("DST", "IIFNAME", "OIFNAME", "FWMARK", "TUN_ID", "L3MDEV"),
    *("IP_PROTO", "SPORT_RANGE", "DPORT_RANGE"),
)
"""Selectors that our rules never have. A rule with one of them is not ours."""


class ifinfomsg(nlmsg):  # type: ignore[misc]  # noqa: N801 - pyroute2 has no types; struct ifinfomsg
    """A message about a link, with the attributes that we need (linux/if_link.h).

    pyroute2's own class knows the attributes of every kind of link, and takes 8 ms to import.
    """

    prefix = "IFLA_"
    fields = (("type", "2xH"), ("index", "i"), ("flags", "I"), ("change", "I"))
    nla_map = (
        (3, "IFLA_IFNAME", "asciiz"),
        (4, "IFLA_MTU", "uint32"),
        (18, "IFLA_LINKINFO", "linkinfo"),
        (29, "IFLA_EXT_MASK", "uint32"),
        (40, "IFLA_GSO_MAX_SEGS", "uint32"),
    )

    class linkinfo(nla):  # type: ignore[misc]  # noqa: N801
        """IFLA_LINKINFO."""

        prefix = "IFLA_INFO_"
        nla_map = ((1, "IFLA_INFO_KIND", "asciiz"), (2, "IFLA_INFO_DATA", "tun"))

        class tun(nla):  # type: ignore[misc]  # noqa: N801
            """IFLA_INFO_DATA of a TUN or TAP interface. It must not be read for other interfaces."""

            prefix = "IFLA_TUN_"
            nla_map = ((1, "IFLA_TUN_OWNER", "uint32"), (3, "IFLA_TUN_TYPE", "uint8"))


class Link(NamedTuple):
    """An interface: index, MTU in bytes, whether it is up, whether it is a TUN, and the user ID that owns the TUN."""

    ifindex: int
    mtu: int
    up: bool
    is_tun: bool
    tun_owner: int | None


@contextlib.contextmanager
def attempt(what: str, *, ignore: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn a refusal of the kernel into NetworkFailed, unless its number is in ``ignore``."""
    try:
        yield
    except OSError as e:
        if e.errno not in ignore:
            raise errors.NetworkFailed(what=what, reason=os.strerror(e.errno or 0)) from None


def _encode(message: Any, fields: dict[str, Any], attributes: dict[str, Any]) -> bytes:
    """The body of a pyroute2 message. Attributes that are None are left out. Names of attributes are given without the prefix."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = [
        (message.prefix + name, value) for name, value in attributes.items() if value is not None
    ]
    message.encode()
    return bytes(message.data[netlink.HEADER.size :])


def _decode(kind: type, data: bytes) -> Any:
    """A message from the kernel, as a pyroute2 message of this class."""
    message = kind(data)
    message.decode()
    return message


def _change(kind: int, flags: int, body: bytes) -> None:
    """Send the kernel a request for a change. Raises OSError."""
    netlink.request(NETLINK_ROUTE, netlink.pack(kind, flags | NLM_F_ACK, body))


# -- links


def link(name: str) -> Link | None:
    """The interface of that name, if there is one."""
    body = _encode(ifinfomsg(), {}, {"IFNAME": name, "EXT_MASK": RTEXT_FILTER_SKIP_STATS})
    answers: list[bytes] = []
    with attempt(f"look for {name}", ignore=(errno.ENODEV,)):
        answers = netlink.request(NETLINK_ROUTE, netlink.pack(RTM_GETLINK, 0, body))
    return _parse_link(_decode(ifinfomsg, answers[0])) if answers else None


def _parse_link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    tun = info.get_attr("IFLA_INFO_DATA") if kind == "tun" else None
    return Link(
        ifindex=message["index"],
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        is_tun=tun is not None and tun.get_attr("IFLA_TUN_TYPE") == IFF_TUN,
        tun_owner=tun.get_attr("IFLA_TUN_OWNER") if tun is not None else None,
    )


def bring_up(name: str, mtu: int, segments: int) -> None:
    """Bring an interface up with an MTU in bytes. ``segments`` is the number of packets that the kernel may hand over as one."""
    body = _encode(
        ifinfomsg(),
        {"flags": IFF_UP, "change": IFF_UP},
        {"IFNAME": name, "MTU": mtu, "GSO_MAX_SEGS": segments},
    )
    with attempt(f"bring {name} up with an MTU of {mtu}"):
        _change(RTM_NEWLINK, 0, body)


def delete_link(name: str) -> None:
    """Remove an interface, if it is there."""
    with attempt(f"remove {name}", ignore=(errno.ENODEV,)):
        _change(RTM_DELLINK, 0, _encode(ifinfomsg(), {}, {"IFNAME": name}))


# -- addresses


def addresses(index: int = 0) -> set[Address]:
    """The addresses of one interface, or of all of them, without the link-local ones."""
    body = _encode(ifaddrmsg(), {"index": index}, {})
    with attempt("list addresses"):
        messages = [_decode(ifaddrmsg, answer) for answer in netlink.dump(NETLINK_ROUTE, RTM_GETADDR, body)]
    ours = (m for m in messages if index in (0, m["index"]))
    found = {ip_address(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS")) for m in ours}
    return {address for address in found if not address.is_link_local}


def add_address(address: Address, index: int) -> None:
    """Give an interface an address without a prefix route. The address is usable at once."""
    body = _address(address, index, IFA_F_NODAD | IFA_F_NOPREFIXROUTE)
    with attempt(f"add {address}", ignore=(errno.EEXIST,)):
        _change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_address(address: Address, index: int) -> None:
    """Remove an address from an interface, if it is there."""
    with attempt(f"remove {address}", ignore=(errno.EADDRNOTAVAIL,)):
        _change(RTM_DELADDR, 0, _address(address, index))


def _address(address: Address, index: int, flags: int | None = None) -> bytes:
    fields = {"family": FAMILIES[address.version], "prefixlen": address.max_prefixlen, "index": index}
    return _encode(ifaddrmsg(), fields, {"LOCAL": str(address), "ADDRESS": str(address), "FLAGS": flags})


# -- rules


def rules() -> set[Rule]:
    """The rules that look up a table and that a Rule can express. All of our rules are among them."""
    with attempt("list rules"):
        answers = netlink.dump(NETLINK_ROUTE, RTM_GETRULE, _encode(fibmsg(), {}, {}))
    return {rule for answer in answers if (rule := _parse_rule(_decode(fibmsg, answer)))}


def add_rule(rule: Rule) -> None:
    """Add a rule, if it is not there."""
    with attempt(f"add the rule {rule}", ignore=(errno.EEXIST,)):
        _change(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _rule(rule))


def delete_rule(rule: Rule) -> None:
    """Remove a rule, if it is there."""
    with attempt(f"remove the rule {rule}", ignore=(errno.ENOENT, *NO_SUCH_FAMILY)):
        _change(RTM_DELRULE, 0, _rule(rule))


def _rule(rule: Rule) -> bytes:
    fields: dict[str, Any] = {"family": FAMILIES[rule.family], "action": FR_ACT_TO_TBL}
    attributes: dict[str, Any] = {"PRIORITY": rule.priority, "TABLE": rule.table, "PROTOCOL": RULE_PROTOCOL}
    if rule.source is not None:
        fields["src_len"], attributes["SRC"] = rule.source.max_prefixlen, str(rule.source)
    if rule.uids is not None:
        attributes["UID_RANGE"] = f"{rule.uids[0]}:{rule.uids[1]}"
    return _encode(fibmsg(), fields, attributes)


def _parse_rule(message: Any) -> Rule | None:
    """A rule as a value, or None if a Rule cannot express it."""
    source, uids = message.get_attr("FRA_SRC"), message.get_attr("FRA_UID_RANGE")
    whole = source is None or message["src_len"] == ip_address(source).max_prefixlen
    if message["action"] != FR_ACT_TO_TBL or message["flags"] & FIB_RULE_INVERT or not whole:
        return None
    if message["family"] not in VERSIONS or any(message.get_attr(f"FRA_{name}") for name in SELECTORS):
        return None
    first, last = uids.split(":") if uids else (0, 0)
    return Rule(
        family=VERSIONS[message["family"]],
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE"),
        source=ip_address(source) if source else None,
        uids=(int(first), int(last)) if uids else None,
    )


# -- routes


def routes(index: int) -> set[Route]:
    """The routes of the tailnet's table through this interface, and its throw routes."""
    return {route for answer in _table() if (route := _parse_route(answer, index))}


def replace_routes(wanted: Iterable[Route], index: int) -> bool:
    """Add the routes that the tailnet's table lacks and remove the others; return whether anything changed.

    If the table has more routes than ``netlink.MAX_MESSAGES``, those that were not read stay until the next call.
    """
    wanted = set(wanted)
    absent, changed = set(wanted), False
    for answer in _table():
        route = _parse_route(answer, index)
        absent.discard(route)
        if route not in wanted:
            _delete_listed(answer)
            changed = True
    for route in absent:
        _add_route(route, index)
    return changed or bool(absent)


def delete_throw(to: Network) -> None:
    """Remove the throw route to that network from the tailnet's table, if it is there."""
    body = _route(to, {"type": RTN_THROW, "proto": RTPROT_STATIC, "scope": RT_SCOPE_NOWHERE}, None)
    with attempt(f"remove the route throw {to}", ignore=(errno.ESRCH, *NO_SUCH_FAMILY)):
        _change(RTM_DELROUTE, 0, body)


def _table() -> Iterator[bytes]:
    """The messages about the routes of the tailnet's table, for both IP versions. Routes of other tables are left out."""
    for family in FAMILIES.values():
        body = _encode(rtmsg(), {"family": family, "table": TAILNET_TABLE}, {})
        # The kernel answers ENOENT if the family has no such table. A kernel without the family lists other families.
        answers: list[bytes] = []
        with attempt("list routes", ignore=(errno.ENOENT, *NO_SUCH_FAMILY)):
            answers = netlink.dump(NETLINK_ROUTE, RTM_GETROUTE, body)
        for answer in answers:
            header = answer[netlink.HEADER.size :]
            if (header[RTM_FAMILY], header[RTM_TABLE]) == (family, TAILNET_TABLE):
                yield answer


def _add_route(route: Route, index: int) -> None:
    fields = {"type": RTN_THROW if route.throw else RTN_UNICAST, "proto": RTPROT_STATIC}
    link_scope = not (route.throw or route.to.version == 6)
    fields["scope"] = RT_SCOPE_LINK if link_scope else RT_SCOPE_UNIVERSE
    with attempt(f"add the route {route}", ignore=(errno.EEXIST,)):
        _change(
            RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _route(route.to, fields, None if route.throw else index)
        )


def _delete_listed(answer: bytes) -> None:
    """Remove a route exactly as the kernel listed it, with all its attributes, as ``ip route flush`` does."""
    with attempt("remove a route that is not the tailnet's", ignore=(errno.ESRCH,)):
        _change(RTM_DELROUTE, 0, answer[netlink.HEADER.size :])


def _route(to: Network, fields: dict[str, Any], output: int | None) -> bytes:
    """The body of a message about a route of the tailnet's table; ``output`` is the index of an interface."""
    where = {"family": FAMILIES[to.version], "dst_len": to.prefixlen, "table": TAILNET_TABLE}
    target = {"DST": str(to.network_address) if to.prefixlen else None, "TABLE": TAILNET_TABLE, "OIF": output}
    return _encode(rtmsg(), where | fields, target)


def _parse_route(answer: bytes, index: int) -> Route | None:
    """A listed route as a value; None if it does not lead to that interface."""
    message = _decode(rtmsg, answer)
    to = message.get_attr("RTA_DST")
    network = ip_network(f"{to}/{message['dst_len']}") if to else EVERYTHING[message["family"]]
    if message["type"] == RTN_THROW:
        return Route(network, throw=True)
    direct = not any(message.get_attr(f"RTA_{name}") for name in ("GATEWAY", "VIA", "MULTIPATH"))
    ours = message["type"] == RTN_UNICAST and message.get_attr("RTA_OIF") == index and direct
    return Route(network) if ours else None
