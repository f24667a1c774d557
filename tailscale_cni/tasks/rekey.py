"""``rekey``: an auth key for a worker that needs one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .. import errors
from ..devices import assign
from ..node import authkeys, teardown
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment

SOON = 10.0
"""Seconds. If the control plane can be asked again within this time, the supervisor retries without growing delays."""


def run(attachment: Attachment, deleted: bool) -> int:  # noqa: FBT001
    """Print the worker's next start line: ``key KEY``, or ``new-key KEY`` for a node that the control plane has ``deleted``."""
    if deleted and teardown.accept_deletion(attachment):
        _complain(errors.NodeDeleted(pod=attachment.display_name))
        return exits.GONE
    if attachment.ephemeral:
        assign.make_way(attachment)
    word = "new-key" if deleted else "key"
    try:
        key = authkeys.mint_in_turn(attachment)
    except errors.ControlUnavailable as e:
        _complain(e)
        return exits.ASK_AGAIN if e.again <= SOON else exits.RETRY_LATER
    sys.stdout.buffer.write(f"{word} {key.reveal()}\n".encode())
    return exits.DONE


def _complain(e: errors.Error) -> None:
    """Write an error and its advice to the node's log."""
    sys.stderr.write(f"{e}. {e.advice}\n")
