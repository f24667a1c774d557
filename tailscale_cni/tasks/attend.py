"""``attend``: renew a node's lease or seek its hostname, and print when to do so again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..identity import handover, release, rename, renew
from ..worker import launch
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment


def run(attachment: Attachment, _deleted: bool) -> int:  # noqa: FBT001
    """Print the seconds until the supervisor should run this task again, 0 for never."""
    current = handover.apply_assignment(attachment)
    if current is None:
        return exits.GONE
    if current.lost or not launch.matches_record(current):
        return exits.MOVED
    again = rename.seek(current) if current.seeks_name else renew.renew(current)
    if again is None:
        return exits.MOVED
    release.deliver_soon(attachment.state_dir)
    sys.stdout.write(f"{again:.0f}\n")
    return exits.DONE
