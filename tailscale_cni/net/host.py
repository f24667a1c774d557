"""The host's network namespace: the rule for the workers' sockets, and the host's tailnet addresses. The calling thread must be in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tailnet import is_tailnet
from .model import HOST_PRIORITY, MAIN_TABLE, Rule
from .rtnetlink import FAMILIES, add_rule, addresses, delete_rule

if TYPE_CHECKING:
    from ..tailnet import Address


def ensure_uid_rule(first_uid: int, last_uid: int) -> None:
    """Let the sockets of these user IDs use the host's main table, in front of the rules of a tailscaled on the host.

    ADDs call this, also at the same time, so an existing rule is not an error. Raises NetworkFailed.
    """
    for rule in _uid_rules(first_uid, last_uid):
        add_rule(rule)


def remove_uid_rule(first_uid: int, last_uid: int) -> None:
    """Remove the rules of ``ensure_uid_rule``, if they are there. Raises NetworkFailed."""
    for rule in _uid_rules(first_uid, last_uid):
        delete_rule(rule)


def host_tailnet_addresses() -> tuple[Address, ...]:
    """The host's addresses in the tailnet's ranges, sorted. Kubelet's probes may come from them. Raises NetworkFailed."""
    found = [address for address in addresses() if is_tailnet(address)]
    return tuple(sorted(found, key=lambda address: (address.version, address.packed)))


def _uid_rules(first_uid: int, last_uid: int) -> list[Rule]:
    return [Rule(family, HOST_PRIORITY, MAIN_TABLE, uids=(first_uid, last_uid)) for family in FAMILIES]
