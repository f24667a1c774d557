"""The door to pyroute2's messages: the calling thread's addresses, rules and routes, as our values.

Of pyroute2 this takes what knows the messages, and not what carries them: a socket of its own runs on asyncio, and importing that
takes 160 ms, where the messages take 20. ``exchange`` carries them. It must not decide anything: what should be is in
``model``, when is in ``pod`` and ``host``. Everything raises NetworkFailed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import socket
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from .. import errors, linux
from .exchange import ACK, CREATE, DUMP, EXCLUSIVE, HEADER, REQUEST, exchange
from .model import TAILNET_TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..tailnet import Address, Network

NETLINK_ROUTE = 0  # linux/netlink.h
NEW_LINK, DELETE_LINK = 16, 17  # linux/rtnetlink.h, from here on
GET_ADDRESS, ADD_ADDRESS, DELETE_ADDRESS = 22, 20, 21
ADD_ROUTE, DELETE_ROUTE, GET_ROUTE, ADD_RULE, DELETE_RULE, GET_RULE = 24, 25, 26, 32, 33, 34
RTN_UNICAST, RTN_THROW, RTPROT_STATIC = 1, 9, 4
RTM_TABLE = 4  # where struct rtmsg has it
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255

IFINFOMSG = {
    "prefix": "IFLA_",
    "fields": (("type", "2xH"), ("index", "i"), ("flags", "I"), ("change", "I")),
    "nla_map": ((3, "IFLA_IFNAME", "asciiz"), (4, "IFLA_MTU", "uint32"), (40, "IFLA_GSO_MAX_SEGS", "uint32")),
}
"""A message about a link, as far as we have something to say (struct ifinfomsg; linux/if_link.h).

pyroute2's own knows what links of every kind have, and takes 10 ms to import.
"""

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
EVERYTHING = {socket.AF_INET: ip_network("0.0.0.0/0"), socket.AF_INET6: ip_network("::/0")}
VERSIONS = {family: version for version, family in FAMILIES.items()}

IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200  # linux/if_addr.h
FR_ACT_TO_TBL, FIB_RULE_INVERT = 1, 0x2  # linux/fib_rules.h

RULE_PROTOCOL = 52
"""Who made a rule, by which the kernel tells ours from a more particular one of somebody else's.

It takes a rule that selects by less for the same as one that selects by more as well: without this, adding ours
would find theirs "there already", and deleting ours would delete theirs (linux: net/core/fib_rules.c).
"""

NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""What a kernel without IPv6 says of it."""

SELECTORS = (
    *("DST", "IIFNAME", "OIFNAME", "FWMARK", "TUN_ID", "L3MDEV"),
    *("IP_PROTO", "SPORT_RANGE", "DPORT_RANGE"),
)
"""What a rule of ours never selects by: one that does is somebody else's."""


@contextlib.contextmanager
def attempt(what: str, *, unless: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn the kernel's refusal of ``what`` into NetworkFailed, or swallow it where it is expected."""
    try:
        yield
    except OSError as e:
        if e.errno not in unless:
            raise errors.NetworkFailed(what=what, reason=os.strerror(e.errno or 0)) from None


def _pyroute2(module: str) -> Any:
    """A part of pyroute2, without what else there is: its own beginning imports all of it."""
    if "pyroute2" not in sys.modules:
        spec = importlib.util.find_spec("pyroute2")
        if spec is None:
            raise ImportError("pyroute2 is not there")
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)  # not executed
    return importlib.import_module(f"pyroute2.{module}")


def _class(name: str) -> Any:
    """The class of a message."""
    if name == "ifinfomsg":
        return type(name, (_pyroute2("netlink").nlmsg,), IFINFOMSG)
    return getattr(_pyroute2(f"netlink.rtnl.{name}"), name)


def _message(kind: str, fields: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """A message; attributes that are None are left out."""
    message = _class(kind)()
    for key, value in fields.items():
        message[key] = value
    present = [(message.prefix + key, value) for key, value in attributes.items() if value is not None]
    message["attrs"] = present
    return message


def _tell(command: int, flags: int, message: Any) -> None:
    """Have the kernel do it. Raises OSError."""
    message["header"] = {"type": command, "flags": flags | REQUEST | ACK, "sequence_number": 0, "pid": 0}
    message.encode()
    exchange(NETLINK_ROUTE, bytes(message.data))


def _list(
    what: str, command: int, kind: str, family: int = socket.AF_UNSPEC, table: int | None = None
) -> list[Any]:
    """All of something; of routes, those of one table. A kernel without IPv6 has nothing of it."""
    request = _message(kind, {"family": family}, {})
    request["header"] = {"type": command, "flags": DUMP | REQUEST, "sequence_number": 0, "pid": 0}
    request.encode()
    found = []
    with attempt(f"list {what}", unless=NO_SUCH_FAMILY):
        for data in exchange(NETLINK_ROUTE, bytes(request.data)):
            if table not in (None, data[HEADER + RTM_TABLE]):
                continue  # decoding takes longer than all the rest
            message = _class(kind)(data)
            message.decode()
            found.append(message)
    return found


# -- links


def bring_up(name: str, mtu: int, segments: int) -> None:
    """Give an interface its MTU, and how many packets the kernel may hand over as one; and bring it up."""
    up = {"flags": linux.IFF_UP, "change": linux.IFF_UP}
    attributes = {"IFNAME": name, "MTU": mtu, "GSO_MAX_SEGS": segments}
    with attempt(f"bring {name} up with an MTU of {mtu}"):
        _tell(NEW_LINK, 0, _message("ifinfomsg", up, attributes))


def delete_link(name: str) -> None:
    """Remove an interface, if it is there."""
    with attempt(f"remove {name}", unless=(errno.ENODEV,)):
        _tell(DELETE_LINK, 0, _message("ifinfomsg", {}, {"IFNAME": name}))


# -- addresses


def addresses(index: int | None = None) -> set[Address]:
    """The addresses of one interface, or of all, without the link-local ones."""
    messages = (m for m in _list("addresses", GET_ADDRESS, "ifaddrmsg") if index in (None, m["index"]))
    found = {ip_address(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS")) for m in messages}
    return {address for address in found if not address.is_link_local}


def add_address(address: Address, index: int) -> None:
    """Give an interface an address of its own, without a network around it and usable at once."""
    with attempt(f"add {address}", unless=(errno.EEXIST,)):
        _tell(ADD_ADDRESS, CREATE | EXCLUSIVE, _address(address, index, IFA_F_NODAD | IFA_F_NOPREFIXROUTE))


def delete_address(address: Address, index: int) -> None:
    """Take an address from an interface."""
    with attempt(f"remove {address}", unless=(errno.EADDRNOTAVAIL,)):
        _tell(DELETE_ADDRESS, 0, _address(address, index))


def _address(address: Address, index: int, flags: int | None = None) -> Any:
    fields = {"family": FAMILIES[address.version], "prefixlen": address.max_prefixlen, "index": index}
    return _message("ifaddrmsg", fields, {"LOCAL": str(address), "ADDRESS": str(address), "FLAGS": flags})


# -- rules


def rules() -> set[Rule]:
    """The rules that look up a table, as far as our words can say them: no others are ours."""
    messages = (m for family in FAMILIES.values() for m in _list("rules", GET_RULE, "fibmsg", family))
    return {rule for message in messages if (rule := _rule(message))}


def add_rule(rule: Rule) -> None:
    """Add a rule, if it is not there."""
    with attempt(f"add the rule {rule}", unless=(errno.EEXIST,)):
        _tell(ADD_RULE, CREATE | EXCLUSIVE, _selectors(rule))


def delete_rule(rule: Rule) -> None:
    """Remove a rule, if it is there."""
    with attempt(f"remove the rule {rule}", unless=(errno.ENOENT, *NO_SUCH_FAMILY)):
        _tell(DELETE_RULE, 0, _selectors(rule))


def _selectors(rule: Rule) -> Any:
    fields: dict[str, Any] = {"family": FAMILIES[rule.family], "action": FR_ACT_TO_TBL}
    attributes: dict[str, Any] = {"PRIORITY": rule.priority, "TABLE": rule.table, "PROTOCOL": RULE_PROTOCOL}
    if rule.source is not None:
        fields["src_len"], attributes["SRC"] = rule.source.max_prefixlen, str(rule.source)
    if rule.uids is not None:
        attributes["UID_RANGE"] = f"{rule.uids[0]}:{rule.uids[1]}"
    return _message("fibmsg", fields, attributes)


def _rule(message: Any) -> Rule | None:
    """A rule as we would say it, or None if our words cannot."""
    source, uids = message.get_attr("FRA_SRC"), message.get_attr("FRA_UID_RANGE")
    whole = source is None or message["src_len"] == ip_address(source).max_prefixlen
    if message["action"] != FR_ACT_TO_TBL or message["flags"] & FIB_RULE_INVERT or not whole:
        return None
    if any(message.get_attr(f"FRA_{name}") for name in SELECTORS):
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
    """The routes of the tailnet's table that are what ours are: by this interface, or thrown."""
    return {route for message in _table() if (route := _route(message, index))}


def replace_routes(wanted: Iterable[Route], index: int) -> bool:
    """Make the tailnet's table hold exactly these; whether it held others."""
    wanted = set(wanted)
    found = [(_route(message, index), message) for message in _table()]
    stale = [message for route, message in found if route not in wanted]
    absent = wanted - {route for route, _ in found}
    for message in stale:
        _delete_route(message)
    for route in absent:
        _add_route(route, index)
    return bool(stale or absent)


def _table() -> list[Any]:
    """A kernel without a family answers with the others', as often as it is asked."""
    families = FAMILIES.values()
    dumps = {family: _list("routes", GET_ROUTE, "rtmsg", family, TAILNET_TABLE) for family in families}
    return [m for family, dump in dumps.items() for m in dump if m["family"] == family]


def _add_route(route: Route, index: int) -> None:
    link = not (route.throw or route.to.version == 6)
    fields = {"type": RTN_THROW if route.throw else RTN_UNICAST, "proto": RTPROT_STATIC}
    fields["scope"] = RT_SCOPE_LINK if link else RT_SCOPE_UNIVERSE
    with attempt(f"add the route {route}", unless=(errno.EEXIST,)):
        _tell(ADD_ROUTE, CREATE | EXCLUSIVE, _to(route.to, fields, {"OIF": None if route.throw else index}))


def _delete_route(message: Any) -> None:
    to = _network(message)
    fields = {key: message[key] for key in ("type", "scope", "proto")}
    exactly = {key: message.get_attr(f"RTA_{key}") for key in ("OIF", "GATEWAY", "PRIORITY")}
    with attempt(f"remove the route {to}", unless=(errno.ESRCH,)):
        _tell(DELETE_ROUTE, 0, _to(to, fields, exactly))


def _to(to: Network, fields: dict[str, Any], attributes: dict[str, Any]) -> Any:
    where = {"family": FAMILIES[to.version], "dst_len": to.prefixlen, "table": TAILNET_TABLE}
    target = {"DST": str(to.network_address) if to.prefixlen else None, "TABLE": TAILNET_TABLE}
    return _message("rtmsg", where | fields, target | attributes)


def _network(message: Any) -> Network:
    if (to := message.get_attr("RTA_DST")) is not None:
        return ip_network(f"{to}/{message['dst_len']}")
    return EVERYTHING[message["family"]]


def _route(message: Any, index: int) -> Route | None:
    """A route as one of ours, or None if it goes elsewhere."""
    if message["type"] == RTN_THROW:
        return Route(_network(message), throw=True)
    plain = message.get_attr("RTA_GATEWAY") is None and message.get_attr("RTA_MULTIPATH") is None
    ours = message["type"] == RTN_UNICAST and message.get_attr("RTA_OIF") == index and plain
    return Route(_network(message)) if ours else None
