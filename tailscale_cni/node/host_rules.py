"""What workers need of the host's own namespace: a rule that is there before the first packet, and away with the last node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import linux
from ..state import files
from ..state.attachments import LOCK_SECONDS

if TYPE_CHECKING:
    from ..state.attachments import Attachment, Attachments


def prepare(store: Attachments, attachment: Attachment) -> None:
    """``confirm``, unless an ADD of this boot has: importing netlink takes longer than a node takes to register.

    A connection that a worker begins without the rule can go into the tunnel of the host's own tailscaled,
    and hang there.
    """
    if attachment.underlay == "host" and files.read(_note(attachment)) != _word(attachment):
        confirm(store, attachment)


def confirm(store: Attachments, attachment: Attachment) -> None:
    """Have the rule, whoever may have taken it away, and note that it is there."""
    if attachment.underlay != "host":
        return
    from ..net import host

    with files.locked(store.root, LOCK_SECONDS, "the host's rules", create=False, shared=True):
        host.ensure_uid_rule(*attachment.worker_uids)
        files.write_volatile(_note(attachment), _word(attachment).encode())


def restore(last: Attachment) -> None:
    """After the last node of a host. The lock on all attachments is held alone."""
    files.remove_with_drafts(_note(last))
    if last.underlay == "host" and last.uid_base:
        from ..net import host

        host.remove_uid_rule(*last.worker_uids)


def _note(attachment: Attachment) -> str:
    return f"{attachment.run_dir}/uid-rule"


def _word(attachment: Attachment) -> str:
    """What the note says: a rule does not outlive a boot, and is for one range."""
    first, last = attachment.worker_uids
    return f"{linux.boot_id()} {first}-{last}\n"
