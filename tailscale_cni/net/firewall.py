"""Anti-spoofing in the pod's network namespace: one nftables table, which is replaced as a whole.

Packets that claim to come from the tailnet must arrive on the node's interface, and packets that arrive there must come from the tailnet.
The table only ever drops packets, so it does not disturb another firewall of the pod. Its priorities lie between the standard ones,
which leaves room on both sides. Each rule has a comment that says what the rule is for, and that identifies the rule.
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
from .nftables import NF_ACCEPT, NF_DROP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..tailnet import Address, Network
    from .model import PodNetwork
    from .nftables import Value

TABLE = "tailscale-cni"
PREROUTING = "prerouting"
FROM_TAILNET = "from-tailnet"
TAILNET_SOURCE = "tailnet-source"
FORWARD = "forward"
CHAINS = (PREROUTING, FROM_TAILNET, TAILNET_SOURCE, FORWARD)

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

NO_FLAGS = 0
"""NFTA_TABLE_FLAGS of a table that is in use, without NFT_TABLE_F_DORMANT and other flags."""

NO_NF_TABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""The errors of a kernel without a netlink socket for netfilter, without the inet family, or without nf_tables."""


class Filter(NamedTuple):
    """A rule of the table: its chain, its purpose, its verdict, and what it matches. None matches every packet.

    The verdict is NF_ACCEPT, NF_DROP, or the name of a chain to go to. ``input`` and ``output`` are names of interfaces.
    """

    chain: str
    purpose: str
    verdict: int | str
    input: str | None = None
    output: str | None = None
    source: Network | None = None
    destination: Network | None = None


def filters(
    pod: PodNetwork, addresses: tuple[Address, ...], routes: tuple[Network, ...] = ()
) -> list[Filter]:
    """The rules, in order, for a pod whose node has these addresses (none before registration) and accepts these routes."""
    wanted = [Filter(PREROUTING, "from the pod itself", NF_ACCEPT, input="lo")]
    own = [(address, host_network(address)) for address in sorted(addresses, key=_by_version)]
    wanted += [Filter(PREROUTING, f"from {a}, which is this pod", NF_DROP, source=net) for a, net in own]
    wanted.append(Filter(PREROUTING, f"by {pod.interface}", FROM_TAILNET, input=pod.interface))
    wanted += [
        Filter(PREROUTING, f"to {a}, not from the tailnet", NF_DROP, destination=net) for a, net in own
    ]
    wanted += [
        Filter(PREROUTING, f"from {range_}, not from the tailnet", TAILNET_SOURCE, source=range_)
        for range_ in RANGES
    ]
    wanted += [Filter(FROM_TAILNET, f"from {range_}, a peer", NF_ACCEPT, source=range_) for range_ in RANGES]
    if routes:
        cluster = sorted(set(pod.cluster_cidrs), key=_by_version)
        wanted += [Filter(FROM_TAILNET, f"from {c}, the cluster", NF_DROP, source=c) for c in cluster]
        accepted = sorted(set(routes).difference(RANGES, cluster), key=_by_version)
        wanted += [
            Filter(FROM_TAILNET, f"from {r}, an accepted route", NF_ACCEPT, source=r) for r in accepted
        ]
    wanted.append(Filter(FROM_TAILNET, "not a source of the tailnet", NF_DROP))
    known = sorted(set(pod.host_sources), key=_by_version)
    wanted += [Filter(TAILNET_SOURCE, f"{source} may", NF_ACCEPT, source=source) for source in known]
    wanted.append(Filter(TAILNET_SOURCE, "nobody else may", NF_DROP))
    if not pod.forwarding:
        # IPv6 has no sysctl for it: an interface's own "forwarding" only says whether it acts as a router.
        wanted.append(Filter(FORWARD, "from the tailnet to others", NF_DROP, input=pod.interface))
        wanted.append(Filter(FORWARD, "from others to the tailnet", NF_DROP, output=pod.interface))
    return wanted


def protect(pod: PodNetwork, addresses: tuple[Address, ...], routes: tuple[Network, ...] = ()) -> bool:
    """Replace the table if it is not as it should be; return whether it was replaced.

    Raises NoFirewall if the kernel has no nf_tables, NetworkFailed for every other refusal.
    """
    wanted = filters(pod, addresses, routes)
    if next(_faults(wanted), None) is None:
        return False
    _transact("put up the anti-spoofing rules", [*_removal(), *_table(wanted)])
    return True


def unprotect() -> None:
    """Remove the table, if there is one. Raises NetworkFailed."""
    try:
        _transact("remove the anti-spoofing rules", _removal())
    except errors.NoFirewall:
        return


def faults(pod: PodNetwork, addresses: tuple[Address, ...], routes: tuple[Network, ...] = ()) -> list[str]:
    """The differences from the table of ``protect``, one sentence each. Raises NoFirewall, NetworkFailed."""
    return list(_faults(filters(pod, addresses, routes)))


def _faults(wanted: list[Filter]) -> Iterator[str]:
    """Compare the table with the wanted one, rules first. Reads from the kernel only as far as the caller iterates."""
    rules = _list(nftables.GETRULE)
    purposes = [nftables.comment_of(rule) for rule in rules]
    found, whole = dict(zip(purposes, rules, strict=True)), True
    for filter_ in wanted:
        if filter_.purpose not in found:
            whole = False
            yield f"the firewall rule '{filter_.purpose}' is missing"
        elif not nftables.holds(found[filter_.purpose], _rule(filter_)):
            yield f"the firewall rule '{filter_.purpose}' was changed"
    if not whole:
        return
    if purposes != [filter_.purpose for filter_ in wanted]:
        yield "the firewall's rules are not in their order, or others are among them"
    chains = _list(nftables.GETCHAIN)
    for name in CHAINS:
        if not any(nftables.holds(chain, _chain(name)) for chain in chains):
            yield f"the firewall chain '{name}' was changed"
    if not any(nftables.holds(table, (TABLE, NO_FLAGS)) for table in _list(nftables.GETTABLE)):
        yield "the firewall table is switched off"


def _list(command: int) -> list[bytes]:
    """The tables, chains or rules, as the kernel lists them. Raises NoFirewall, NetworkFailed."""
    try:
        return nftables.dump(command, (TABLE,))
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
    """Messages that delete the table. They create the table first, as nft's own scripts do, so that the deletion cannot fail."""
    return [
        nftables.message(nftables.NEWTABLE, NLM_F_CREATE, (TABLE,)),
        nftables.message(nftables.DELTABLE, NLM_F_ACK, (TABLE,)),
    ]


def _table(wanted: list[Filter]) -> list[bytes]:
    """Messages that create the table with its chains and rules."""
    messages = [nftables.message(nftables.NEWTABLE, NLM_F_CREATE, (TABLE,))]
    messages += [nftables.message(nftables.NEWCHAIN, NLM_F_CREATE, _chain(name)) for name in CHAINS]
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
    """The expressions of a rule, as the kernel evaluates them: comparisons, then the verdict."""
    for key, interface in ((nftables.META_IIFNAME, filter_.input), (nftables.META_OIFNAME, filter_.output)):
        if interface is not None:
            yield from nftables.comparison(key, interface)
    for offset, network in ((SOURCE_OFFSET, filter_.source), (DESTINATION_OFFSET, filter_.destination)):
        if network is not None:
            yield from nftables.membership(network, offset[network.version])
    yield nftables.verdict(filter_.verdict)


def _by_version(value: Address | Network) -> tuple[int, Address | Network]:
    """A key by which addresses, or networks, of both IP versions can be sorted."""
    return value.version, value
