"""Anti-spoofing in the pod's network namespace: one nftables table, which is replaced as a whole.

Packets that claim to come from the tailnet must arrive on the node's interface. The table only ever drops packets, so it does not
disturb another firewall of the pod. Its priorities lie between the standard ones, which leaves room on both sides. Each rule has
a comment that says what it is for; the comments are also how rules are found again.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE

from .. import errors
from ..tailnet import RANGES
from . import nftables
from .model import host_network
from .nftables import NF_ACCEPT, NF_DROP, NFT_GOTO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..tailnet import Address, Network
    from .model import PodNetwork
    from .nftables import Value

TABLE = "tailscale-cni"
PREROUTING = "prerouting"
TAILNET_SOURCE = "tailnet-source"
FORWARD = "forward"

HOOKS = {
    PREROUTING: (
        nftables.NF_INET_PRE_ROUTING,
        -250,
    ),  # after raw (-300), before conntrack (-200) and every DNAT
    FORWARD: (nftables.NF_INET_FORWARD, -50),  # after mangle (-150), before filter (0)
}
"""The hook and the priority of each base chain. The standard priorities are in linux/netfilter_ipv4.h."""

SOURCE_OFFSET = {4: 12, 6: 8}
DESTINATION_OFFSET = {4: 16, 6: 24}
"""Where the IP header of each version has its addresses, in bytes: RFC 791 and RFC 8200."""

NO_NF_TABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""How a kernel says that it has no netlink socket for netfilter, no inet family, or no nf_tables."""


class Filter(NamedTuple):
    """A rule of the table: its chain, what it is for, its verdict, and what it matches. None matches every packet.

    ``input`` and ``output`` are names of interfaces.
    """

    chain: str
    purpose: str
    verdict: int
    input: str | None = None
    output: str | None = None
    source: Network | None = None
    destination: Network | None = None


def filters(pod: PodNetwork, addresses: tuple[Address, ...]) -> list[Filter]:
    """The rules, in their order, for a pod whose node has these addresses; none before it is registered."""
    wanted = [
        Filter(PREROUTING, f"from the tailnet, by {pod.interface}", NF_ACCEPT, input=pod.interface),
        Filter(PREROUTING, "from the pod itself", NF_ACCEPT, input="lo"),
    ]
    for address in sorted(addresses, key=lambda a: (a.version, a)):
        own = host_network(address)
        wanted.append(Filter(PREROUTING, f"to {address}, not from the tailnet", NF_DROP, destination=own))
        wanted.append(Filter(PREROUTING, f"from {address}, which is this pod", NF_DROP, source=own))
    wanted += [
        Filter(PREROUTING, f"from {range_}, not from the tailnet", NFT_GOTO, source=range_)
        for range_ in RANGES
    ]
    known = sorted(set(pod.host_sources), key=lambda network: (network.version, network))
    wanted += [Filter(TAILNET_SOURCE, f"{source} may", NF_ACCEPT, source=source) for source in known]
    wanted.append(Filter(TAILNET_SOURCE, "nobody else may", NF_DROP))
    if not pod.forwarding:
        # IPv6 has no sysctl for it: an interface's own "forwarding" only says whether it acts as a router.
        wanted.append(Filter(FORWARD, "from the tailnet to others", NF_DROP, input=pod.interface))
        wanted.append(Filter(FORWARD, "from others to the tailnet", NF_DROP, output=pod.interface))
    return wanted


def protect(pod: PodNetwork, addresses: tuple[Address, ...]) -> bool:
    """Replace the table if it is not as it should be; return whether it was replaced.

    Raises NoFirewall if the kernel has no nf_tables, NetworkFailed for every other refusal.
    """
    wanted = filters(pod, addresses)
    if purposes() == [filter_.purpose for filter_ in wanted]:
        return False
    _transact("put up the anti-spoofing rules", [*_removal(), *_table(wanted)])
    return True


def unprotect() -> None:
    """Remove the table, if there is one. Raises NetworkFailed."""
    try:
        _transact("remove the anti-spoofing rules", _removal())
    except errors.NoFirewall:
        return


def missing(pod: PodNetwork, addresses: tuple[Address, ...]) -> list[str]:
    """The purposes of the rules that should be in the table and are not. Raises NoFirewall, NetworkFailed."""
    found = purposes()
    return [filter_.purpose for filter_ in filters(pod, addresses) if filter_.purpose not in found]


def purposes() -> list[str]:
    """The purposes of the rules in the table, in their order. Raises NoFirewall, NetworkFailed."""
    return [nftables.comment_of(rule) for rule in _rules()]


def _rules() -> list[bytes]:
    """The rules in the table, as the kernel lists them. Raises NoFirewall, NetworkFailed."""
    try:
        return nftables.dump(nftables.GETRULE, (TABLE,))
    except OSError as e:
        # Without nf_tables, a kernel answers a dump with EINVAL, and a transaction with EOPNOTSUPP.
        raise _refused("read the anti-spoofing rules", e, NO_NF_TABLES | {errno.EINVAL}) from None


def _transact(what: str, messages: list[bytes]) -> None:
    """Have the kernel do all of the messages or none. Raises NoFirewall, NetworkFailed."""
    try:
        acknowledgements = nftables.transact(messages)
    except OSError as e:
        raise _refused(what, e, NO_NF_TABLES) from None
    if not acknowledgements:
        raise errors.NetworkFailed(what=what, reason="the kernel gave no answer")


def _refused(what: str, refusal: OSError, absent: frozenset[int]) -> errors.NetworkFailed | errors.NoFirewall:
    """The error for a refusal: NoFirewall if its number is one of ``absent``."""
    error = errors.NoFirewall if refusal.errno in absent else errors.NetworkFailed
    return error(what=what, reason=os.strerror(refusal.errno or 0))


def _removal() -> list[bytes]:
    """Messages that delete the table. They create it first, as nft's own scripts do, so that there is one to delete."""
    return [
        nftables.message(nftables.NEWTABLE, NLM_F_CREATE, (TABLE,)),
        nftables.message(nftables.DELTABLE, NLM_F_ACK, (TABLE,)),
    ]


def _table(wanted: list[Filter]) -> list[bytes]:
    """Messages that create the table with its chains and rules."""
    messages = [nftables.message(nftables.NEWTABLE, NLM_F_CREATE, (TABLE,))]
    messages += [
        nftables.message(nftables.NEWCHAIN, NLM_F_CREATE, _chain(name))
        for name in (PREROUTING, TAILNET_SOURCE, FORWARD)
    ]
    messages += [
        nftables.message(nftables.NEWRULE, NLM_F_CREATE | NLM_F_APPEND, _rule(filter_)) for filter_ in wanted
    ]
    return messages


def _chain(name: str) -> tuple[Value, ...]:
    """The attributes of a chain: linux/netfilter/nf_tables.h, NFTA_CHAIN_TABLE, …."""
    base: tuple[Value, ...] = (HOOKS[name], NF_ACCEPT, None, "filter") if name in HOOKS else ()
    return (TABLE, None, name, *base)


def _rule(filter_: Filter) -> tuple[Value, ...]:
    """The attributes of a rule: linux/netfilter/nf_tables.h, NFTA_RULE_TABLE, …."""
    return (
        TABLE,
        filter_.chain,
        None,
        list(_expressions(filter_)),
        None,
        None,
        nftables.comment(filter_.purpose),
    )


def _expressions(filter_: Filter) -> Iterator[Value]:
    """A rule as the kernel computes it: comparisons, and at the end the verdict."""
    for key, interface in ((nftables.META_IIFNAME, filter_.input), (nftables.META_OIFNAME, filter_.output)):
        if interface is not None:
            yield from nftables.comparison(key, interface)
    for offset, network in ((SOURCE_OFFSET, filter_.source), (DESTINATION_OFFSET, filter_.destination)):
        if network is not None:
            yield from nftables.membership(network, offset[network.version])
    yield nftables.verdict(filter_.verdict, TAILNET_SOURCE if filter_.verdict == NFT_GOTO else None)
