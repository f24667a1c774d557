"""The routing rule for workers in the host's namespace: added before a worker's first packet, removed after the last node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import linux
from ..state import files
from ..state.attachments import LOCK_TIMEOUT

if TYPE_CHECKING:
    from ..state.attachments import Attachment, Attachments


def ensure_once(store: Attachments, attachment: Attachment) -> None:
    """Add the rule unless a note says that an ADD of this boot has added it. Importing netlink takes longer than registering a node.

    Without the rule, a worker's connection can go into the tunnel of the host's own tailscaled, and hang there.
    """
    if attachment.underlay == "host" and files.read(_note(attachment)) != _text(attachment):
        ensure(store, attachment)


def ensure(store: Attachments, attachment: Attachment) -> None:
    """Add the rule if it is missing, and write the note."""
    if attachment.underlay != "host":
        return
    from ..net import host

    with files.locked(store.root, LOCK_TIMEOUT, "the host's rules", create=False, shared=True):
        host.ensure_uid_rule(*attachment.worker_uids)
        files.write_volatile(_note(attachment), _text(attachment).encode())


def remove(last: Attachment) -> None:
    """Remove the rule after the last node of the host. The caller must hold the lock on all attachments exclusively."""
    files.remove_with_drafts(_note(last))
    if last.underlay == "host" and last.uid_base:
        from ..net import host

        host.remove_uid_rule(*last.worker_uids)


def _note(attachment: Attachment) -> str:
    return f"{attachment.run_dir}/uid-rule"


def _text(attachment: Attachment) -> str:
    """The note's text: the boot and the range of user IDs for which the rule was added."""
    first, last = attachment.worker_uids
    return f"{linux.boot_id()} {first}-{last}\n"
