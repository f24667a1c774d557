"""A pod's own network namespace: what a node needs in it, done, checked and undone.

The calling thread must be inside. ``ts0`` is there already: it is the TUN that the worker reads. Everything
here can be said again and again and changes only what is not so yet; what others added it leaves alone,
except for addresses of the node's interface and routes of its table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors, linux
from . import firewall, model, netlink

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
"""Sysctls of an interface that says nothing by itself (linux: ip-sysctl.rst). IPv6's forwarding only says
whether it acts as a router: whether packets pass is the firewall's.

A reverse-path filter is left as it is: ``model.rules`` agree with a strict one.
"""


def prepare(pod: PodNetwork) -> None:
    """Make the namespace ready for a node that has no address yet: sysctls, firewall, rules, interface up.

    Raises NoFirewall where the kernel has no nf_tables and ``anti_spoofing`` is wanted, NetworkFailed for
    everything else.
    """
    link = _link(pod)
    _set_sysctls(pod)
    if pod.anti_spoofing:
        firewall.protect(pod, tuple(netlink.addresses(link.ifindex)))
    for rule in model.rules(pod, _families(pod)):
        netlink.add_rule(rule)
    if not (link.up and link.mtu == pod.mtu):
        netlink.bring_up(pod.interface, pod.mtu, pod.segments)


def apply(pod: PodNetwork, tailnet: Tailnet) -> bool:
    """Give the node exactly these addresses and routes; whether anything was otherwise.

    No address is ever there without its protection, so the firewall comes before it and goes after it.
    """
    families = _families(pod)
    addresses = tuple(address for address in tailnet.addresses if address.version in families)
    link = _link(pod)
    found = netlink.addresses(link.ifindex)
    for address in found - set(addresses):
        netlink.delete_address(address, link.ifindex)
    protected = pod.anti_spoofing and firewall.protect(pod, addresses)
    for address in addresses:
        if address not in found:
            netlink.add_address(address, link.ifindex)
    rerouted = netlink.replace_routes(model.routes(pod, tailnet, families), link.ifindex)
    return found != set(addresses) or protected or rerouted


def verify(pod: PodNetwork, tailnet: Tailnet) -> list[str]:
    """What is not as ``prepare`` and ``apply`` made it, one sentence each; what others added is no matter."""
    families = _families(pod)
    addresses = tuple(address for address in tailnet.addresses if address.version in families)
    link = linux.link(pod.interface)
    if link is None:
        return [f"{pod.interface} is not there"]
    findings = [] if link.up else [f"{pod.interface} is down"]
    if link.mtu != pod.mtu:
        findings.append(f"{pod.interface} has an MTU of {link.mtu}, not {pod.mtu}")
    found = netlink.addresses(link.ifindex)
    findings += [f"{pod.interface} does not have the address {a}" for a in addresses if a not in found]
    rules, routes = netlink.rules(), netlink.routes(link.ifindex)
    findings += [f"the rule '{r}' is missing" for r in model.rules(pod, families) if r not in rules]
    findings += [f"the route {r} is missing" for r in model.routes(pod, tailnet, families) if r not in routes]
    if pod.anti_spoofing:
        findings += [f"the firewall rule '{r}' is missing" for r in firewall.missing(pod, addresses)]
    return findings


def remove(pod: PodNetwork) -> None:
    """Take away what ``prepare`` and ``apply`` made, as far as it is still there.

    The interface goes first, and with it its addresses and routes: none is ever there without its protection.
    """
    netlink.delete_link(pod.interface)
    netlink.replace_routes((), index=0)
    for rule in model.rules(pod, (4, 6)):
        netlink.delete_rule(rule)
    firewall.unprotect()


def _link(pod: PodNetwork) -> linux.Link:
    if link := linux.link(pod.interface):
        return link
    raise errors.NetworkFailed(what=f"look for {pod.interface}", reason="it is not there")


def _families(pod: PodNetwork) -> tuple[int, ...]:
    """The IP versions that the interface speaks: a host may have no IPv6, or have it switched off."""
    off = _sysctl("ipv6", pod.interface, "disable_ipv6")
    return (4, 6) if os.path.exists(off) and _read(off) == "0" else (4,)


def _set_sysctls(pod: PodNetwork) -> None:
    """Set the interface's sysctls, as far as they are not so: some hosts have /proc/sys read-only."""
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
