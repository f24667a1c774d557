"""``run``: become the supervisor of an attachment's node."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from .. import errors
from ..node import start, teardown
from ..node.netns import recorded_netns
from ..worker import launch
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment


def run(attachment: Attachment, _deleted: bool) -> int:  # noqa: FBT001
    """Replace this process with the supervisor. Returns only if there is nothing to run."""
    # A SIGHUP for the supervisor must not end the process that is about to become the supervisor.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if launch.is_deleted(attachment):
        return exits.GONE
    with recorded_netns(attachment) as found:
        netns = None if found is None else os.dup(found)
    if netns is None:
        teardown.reap(attachment)
        return exits.GONE
    if attachment.lost:
        from ..identity import renew

        renew.discard_lost(attachment)
        return exits.GONE
    current = start.begin_anew(attachment)
    if current is None:
        return exits.GONE
    tun = launch.open_tun(current, netns)
    return launch.become_supervisor(current, netns, tun, start.programs(), _start_line(current))


def _start_line(attachment: Attachment) -> bytes:
    """The start line that an ADD offers, or a start line that needs no call to the control plane.

    If a node starts without a key and needs one, the supervisor requests it with growing delays.
    """
    try:
        return launch.take_start_line(attachment) or start.line_at_hand(attachment)
    except errors.NoAuthKey as e:
        sys.stderr.write(f"{e}. {e.advice}\n")
        return start.NO_KEY
