"""The door to pyroute2's IPRoute: the calling thread's links, addresses, rules and routes, as our values.

pyroute2 runs its event loop in the calling thread and closes it with the socket, so what is opened here
leaves neither a thread nor a descriptor. It must not decide anything: what should be is in ``model``, when is
in ``pod`` and ``host``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from .. import errors
from .model import TAILNET_TABLE, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..tailnet import Address, Network

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
EVERYTHING = {socket.AF_INET: ip_network("0.0.0.0/0"), socket.AF_INET6: ip_network("::/0")}
VERSIONS = {family: version for version, family in FAMILIES.items()}

IFF_UP = 0x1  # linux/if.h
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200  # linux/if_addr.h
FR_ACT_TO_TBL, FIB_RULE_INVERT = 1, 0x2  # linux/fib_rules.h
RTN_UNICAST, RTN_THROW = 1, 9  # linux/rtnetlink.h
RTPROT_STATIC = 4

RULE_PROTOCOL = 52
"""Who made a rule, by which the kernel tells ours from a more particular one of somebody else's.

It takes a rule that selects by less for the same as one that selects by more as well: without this, adding ours
would find theirs "there already", and deleting ours would delete theirs (linux: net/core/fib_rules.c).
"""

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
DUMP_TRIES = 5

NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""What a kernel without IPv6 says of it."""

SELECTORS = (
    *("DST", "IIFNAME", "OIFNAME", "FWMARK", "TUN_ID", "L3MDEV"),
    *("IP_PROTO", "SPORT_RANGE", "DPORT_RANGE"),
)
"""What a rule of ours never selects by: one that does is somebody else's."""


@dataclass(frozen=True)
class Link:
    """An interface."""

    index: int
    mtu: int
    up: bool


@contextlib.contextmanager
def attempt(what: str, *, unless: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn the kernel's refusal of ``what`` into NetworkFailed, or swallow it where it is expected."""
    from pyroute2 import NetlinkError

    try:
        yield
    except (NetlinkError, OSError) as e:
        code = e.code if isinstance(e, NetlinkError) else e.errno
        if code not in unless:
            raise errors.NetworkFailed(what=what, reason=os.strerror(code or 0)) from None


@contextlib.contextmanager
def routing() -> Iterator[Routing]:
    """The calling thread's network namespace, for the length of the body."""
    from pyroute2 import IPRoute

    with attempt("open a routing socket"):
        iproute = IPRoute()
    try:
        yield Routing(iproute)
    finally:
        iproute.close()


class Routing:
    """What can be asked and told of one network namespace. All of it raises NetworkFailed."""

    def __init__(self, iproute: Any) -> None:
        self._ip = iproute

    def _dump(self, what: str, family: int = socket.AF_UNSPEC, **narrower: int) -> list[Any]:
        """All of something, again if it changed meanwhile. A kernel without IPv6 has nothing of it."""
        from pyroute2 import NetlinkDumpInterrupted

        found: list[Any] = []
        with attempt(f"list {what}", unless=NO_SUCH_FAMILY):
            for further in reversed(range(DUMP_TRIES)):
                try:
                    found = list(getattr(self._ip, f"get_{what}")(family=family, **narrower))
                    break
                except NetlinkDumpInterrupted:
                    if not further:
                        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        return found

    # -- links

    def link(self, name: str) -> Link | None:
        """The interface of this name, if there is one."""
        with attempt(f"look for {name}", unless=(errno.ENODEV,)):
            for message in self._ip.link("get", ifname=name):
                return Link(message["index"], message.get_attr("IFLA_MTU"), bool(message["flags"] & IFF_UP))
        return None

    def bring_up(self, name: str, link: Link, mtu: int) -> None:
        """Give an interface its MTU and bring it up."""
        if link.up and link.mtu == mtu:
            return
        with attempt(f"bring {name} up with an MTU of {mtu}"):
            self._ip.link("set", index=link.index, mtu=mtu, state="up")

    def delete_link(self, name: str) -> None:
        """Remove an interface, if it is there."""
        if link := self.link(name):
            with attempt(f"remove {name}", unless=(errno.ENODEV,)):
                self._ip.link("del", index=link.index)

    # -- addresses

    def addresses(self, index: int | None = None) -> set[Address]:
        """The addresses of one interface, or of all, without the link-local ones."""
        messages = (m for m in self._dump("addr") if index in (None, m["index"]))
        found = {ip_address(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS")) for m in messages}
        return {address for address in found if not address.is_link_local}

    def add_address(self, address: Address, index: int) -> None:
        """Give an interface an address of its own, without a network around it and usable at once."""
        with attempt(f"add {address}", unless=(errno.EEXIST,)):
            self._ip.addr("add", index=index, flags=IFA_F_NODAD | IFA_F_NOPREFIXROUTE, **_address(address))

    def delete_address(self, address: Address, index: int) -> None:
        """Take an address from an interface."""
        with attempt(f"remove {address}", unless=(errno.EADDRNOTAVAIL,)):
            self._ip.addr("del", index=index, **_address(address))

    # -- rules

    def rules(self) -> set[Rule]:
        """The rules that look up a table, as far as our words can say them: no others are ours."""
        messages = [m for family in FAMILIES.values() for m in self._dump("rules", family)]
        return {rule for message in messages if (rule := _rule(message))}

    def add_rule(self, rule: Rule) -> None:
        """Add a rule, if it is not there."""
        with attempt(f"add the rule {rule}", unless=(errno.EEXIST,)):
            self._ip.rule("add", **_selectors(rule))

    def delete_rule(self, rule: Rule) -> None:
        """Remove a rule, if it is there."""
        with attempt(f"remove the rule {rule}", unless=(errno.ENOENT, *NO_SUCH_FAMILY)):
            self._ip.rule("del", **_selectors(rule))

    # -- routes

    def routes(self, index: int) -> set[Route]:
        """The routes of the tailnet's table that are what ours are: by this interface, or thrown."""
        return {route for message in self._table() if (route := _route(message, index))}

    def replace_routes(self, wanted: Iterable[Route], index: int) -> bool:
        """Make the tailnet's table hold exactly these; whether it held others."""
        wanted = set(wanted)
        found = [(_route(message, index), message) for message in self._table()]
        stale = [message for route, message in found if route not in wanted]
        absent = wanted - {route for route, _ in found}
        for message in stale:
            self._delete_route(message)
        for route in absent:
            self._add_route(route, index)
        return bool(stale or absent)

    def _table(self) -> list[Any]:
        dumps = {family: self._dump("routes", family, table=TAILNET_TABLE) for family in FAMILIES.values()}
        return [m for family, dump in dumps.items() for m in dump if m["family"] == family]

    def _add_route(self, route: Route, index: int) -> None:
        how: dict[str, Any] = {"type": RTN_THROW} if route.throw else {"type": RTN_UNICAST, "oif": index}
        how["scope"] = RT_SCOPE_UNIVERSE if route.throw or route.to.version == 6 else RT_SCOPE_LINK
        with attempt(f"add the route {route}", unless=(errno.EEXIST,)):
            self._ip.route("add", table=TAILNET_TABLE, proto=RTPROT_STATIC, **_destination(route.to), **how)

    def _delete_route(self, message: Any) -> None:
        to = _network(message)
        exactly = {"type": message["type"], "scope": message["scope"], "proto": message["proto"]}
        for key in ("oif", "gateway", "priority"):
            if (value := message.get_attr(f"RTA_{key.upper()}")) is not None:
                exactly[key] = value
        with attempt(f"remove the route {to}", unless=(errno.ESRCH,)):
            self._ip.route("del", table=TAILNET_TABLE, **_destination(to), **exactly)


def _address(address: Address) -> dict[str, Any]:
    return {"family": FAMILIES[address.version], "address": str(address), "prefixlen": address.max_prefixlen}


def _destination(to: Network) -> dict[str, Any]:
    return {"family": FAMILIES[to.version], "dst": str(to)}


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


def _selectors(rule: Rule) -> dict[str, Any]:
    selectors: dict[str, Any] = {"family": FAMILIES[rule.family], "protocol": RULE_PROTOCOL}
    selectors |= {"priority": rule.priority, "table": rule.table}
    if rule.source is not None:
        selectors |= {"src": str(rule.source), "src_len": rule.source.max_prefixlen}
    if rule.uids is not None:
        selectors["uid_range"] = f"{rule.uids[0]}:{rule.uids[1]}"
    return selectors


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
