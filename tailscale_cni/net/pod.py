"""Configuring, checking and cleaning up a node's network in the pod's network namespace.

The calling thread must be in that namespace. The interface, which is the TUN that the worker reads, must exist. Every function can be
called again, and only changes what differs. Other programs' configuration stays, except for addresses of the node's interface and
routes of the tailnet's table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors
from . import firewall, model, rtnetlink

if TYPE_CHECKING:
    from .model import PodNetwork, Tailnet

SYSCTLS = "/proc/sys/net"

SILENT = (
    ("ipv6", "forwarding", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "router_solicitations", "0"),
    ("ipv6", "addr_gen_mode", "1"),  # no link-local address
    ("ipv6", "accept_dad", "0"),
)
"""Sysctls of an interface that sends nothing by itself (linux: ip-sysctl.rst): version, name, value.

IPv6's ``forwarding`` only says whether the interface acts as a router. The firewall decides whether packets are forwarded. The
reverse-path filter stays unchanged, because ``model.rules`` work with a strict filter.
"""


def prepare(pod: PodNetwork) -> None:
    """Configure everything that does not depend on the node's address: sysctls, firewall, rules, interface up.

    Raises NoFirewall if ``anti_spoofing`` is wanted and the kernel has no nf_tables, NetworkFailed for everything else.
    """
    link = _link(pod)
    _set_sysctls(pod)
    if pod.anti_spoofing:
        firewall.protect(pod, tuple(rtnetlink.addresses(link.ifindex)))
    _bring_up(pod, link, _families(pod))


def apply(pod: PodNetwork, tailnet: Tailnet) -> bool:
    """Configure everything, and give the interface exactly these addresses and routes; return whether those or the firewall changed.

    An address never exists without its firewall rules. They are added before the address and removed after it. Raises NoFirewall,
    NetworkFailed.
    """
    families = _families(pod)
    addresses = tuple(address for address in tailnet.addresses if address.version in families)
    link = _link(pod)
    _set_sysctls(pod)
    found = rtnetlink.addresses(link.ifindex)
    for address in found - set(addresses):
        rtnetlink.delete_address(address, link.ifindex)
    protected = pod.anti_spoofing and firewall.protect(pod, addresses, tailnet.routes)
    _bring_up(pod, link, families)
    for address in addresses:
        if address not in found:
            rtnetlink.add_address(address, link.ifindex)
    rerouted = rtnetlink.replace_routes(model.routes(pod, tailnet, families), link.ifindex)
    return found != set(addresses) or protected or rerouted


def verify(pod: PodNetwork, tailnet: Tailnet) -> list[str]:
    """The differences from the configuration of ``prepare`` and ``apply``, one sentence each. Raises NoFirewall, NetworkFailed."""
    families = _families(pod)
    addresses = tuple(address for address in tailnet.addresses if address.version in families)
    link = rtnetlink.link(pod.interface)
    if link is None:
        return [f"{pod.interface} is not there"]
    if not link.is_tun or pod.tun_owner not in (None, link.tun_owner):
        return [f"{pod.interface} is not the node's TUN interface"]
    findings = [] if link.up else [f"{pod.interface} is down"]
    if link.mtu != pod.mtu:
        findings.append(f"{pod.interface} has an MTU of {link.mtu}, not {pod.mtu}")
    found = rtnetlink.addresses(link.ifindex)
    findings += [f"{pod.interface} does not have the address {a}" for a in addresses if a not in found]
    rules, routes = rtnetlink.rules(), rtnetlink.routes(link.ifindex)
    findings += [f"the rule '{r}' is missing" for r in model.rules(pod, families) if r not in rules]
    findings += [f"the route {r} is missing" for r in model.routes(pod, tailnet, families) if r not in routes]
    if pod.anti_spoofing:
        findings += firewall.faults(pod, addresses, tailnet.routes)
    return findings


def remove(pod: PodNetwork) -> None:
    """Remove everything that ``prepare`` and ``apply`` have configured and that still exists. Raises NetworkFailed.

    Everything is removed by its key. Nothing is listed, because the pod decides how long its lists are. The interface is removed first,
    with its addresses and routes, so that no address exists without its firewall rules.
    """
    rtnetlink.delete_link(pod.interface)
    for cidr in pod.cluster_cidrs:
        rtnetlink.delete_throw(cidr)
    for rule in model.rules(pod, (4, 6)):
        rtnetlink.delete_rule(rule)
    firewall.unprotect()


def _link(pod: PodNetwork) -> rtnetlink.Link:
    if link := rtnetlink.link(pod.interface):
        return link
    raise errors.NetworkFailed(what=f"look for {pod.interface}", reason="it is not there")


def _bring_up(pod: PodNetwork, link: rtnetlink.Link, families: tuple[int, ...]) -> None:
    """Add missing rules, and bring the interface up with its MTU, unless it is up with that MTU."""
    for rule in model.rules(pod, families):
        rtnetlink.add_rule(rule)
    if not (link.up and link.mtu == pod.mtu):
        rtnetlink.bring_up(pod.interface, pod.mtu, pod.segments)


def _families(pod: PodNetwork) -> tuple[int, ...]:
    """The IP versions of the interface: 4 and 6, or only 4 on a host where IPv6 is missing or switched off."""
    off = _sysctl("ipv6", pod.interface, "disable_ipv6")
    return (4, 6) if os.path.exists(off) and _read(off) == "0" else (4,)


def _set_sysctls(pod: PodNetwork) -> None:
    """Set those sysctls of the interface that differ. Others are not written, because /proc/sys is read-only on some hosts."""
    passing = ("ipv4", "forwarding", "1" if pod.forwarding else "0")
    for version, name, wanted in (*SILENT, passing):
        path = _sysctl(version, pod.interface, name)
        if not os.path.isdir(os.path.dirname(path)):
            continue
        try:
            if _read(path) != wanted:
                with open(path, "w", encoding="ascii") as f:
                    f.write(wanted)
        except OSError as e:
            raise errors.NetworkFailed(what=f"set {path} to {wanted}", reason=e.strerror) from None


def _sysctl(version: str, interface: str, name: str) -> str:
    return f"{SYSCTLS}/{version}/conf/{interface}/{name}"


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read().strip()
