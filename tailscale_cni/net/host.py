"""What the host's own network namespace needs, and tells. The calling thread must be in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tailnet import is_tailnet
from .model import HOST_PRIORITY, MAIN_TABLE, Rule
from .netlink import FAMILIES, add_rule, addresses, delete_rule

if TYPE_CHECKING:
    from ..tailnet import Address


def ensure_uid_rule(first_uid: int, last_uid: int) -> None:
    """Let the workers' sockets use the host's own routes, before a tailscaled there tunnels them.

    Said by every ADD, by several at once: what is there already is no error. Raises NetworkFailed.
    """
    for rule in _uid_rules(first_uid, last_uid):
        add_rule(rule)


def remove_uid_rule(first_uid: int, last_uid: int) -> None:
    """Undo ``ensure_uid_rule``; it is no error if there is nothing to undo. Raises NetworkFailed."""
    for rule in _uid_rules(first_uid, last_uid):
        delete_rule(rule)


def host_tailnet_addresses() -> tuple[Address, ...]:
    """The host's addresses within the tailnet's ranges, where kubelet's probes may come from.

    Raises NetworkFailed.
    """
    found = [address for address in addresses() if is_tailnet(address)]
    return tuple(sorted(found, key=lambda address: (address.version, address.packed)))


def _uid_rules(first_uid: int, last_uid: int) -> list[Rule]:
    return [Rule(family, HOST_PRIORITY, MAIN_TABLE, uids=(first_uid, last_uid)) for family in FAMILIES]
