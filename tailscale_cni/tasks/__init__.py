"""What a node's supervisor asks of Python: short-lived processes of root, each for one attachment.

``run`` becomes the supervisor; the others answer its questions. Everything that they need is in the attachment's record. The
supervisor names the task and the attachment on the command line (``tailscale-cni worker TASK``) and reads the exit status (``exits``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..state.attachments import Attachments
from . import exits

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..state.attachments import Attachment

TASKS = ("run", "sync", "attend", "rekey", "logout", "reap")
"""The modules of this room that have a ``run``."""


def perform(task: str, state_dir: str, attachment_id: str, *, deleted: bool = False) -> int:
    """Do a task and return its exit status. ``deleted`` says that the control plane has forgotten the node, for ``rekey``."""
    attachment = Attachments(state_dir).with_id(attachment_id)
    if attachment is None:
        return exits.GONE
    # Each task imports what it needs, and does not pay for the others.
    run: Callable[[Attachment, bool], int] = import_module(f".{task}", __name__).run
    return run(attachment, deleted)
