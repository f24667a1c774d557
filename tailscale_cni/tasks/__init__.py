"""The supervisor's tasks in Python: short-lived processes that run as root, each for one attachment.

``run`` becomes the supervisor. The supervisor starts the other tasks. All their input is in the attachment's record. The supervisor names
the task and the attachment on the command line (``tailscale-cni worker TASK``) and reads the exit status (``exits``).
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
"""The tasks: modules of this package with a ``run`` function."""


def perform(task: str, state_dir: str, attachment_id: str, *, deleted: bool = False) -> int:
    """Run a task and return its exit status. ``deleted`` is for ``rekey``: whether the control plane has deleted the node."""
    attachment = Attachments(state_dir).with_id(attachment_id)
    if attachment is None:
        return exits.GONE
    # Each task only imports what it needs.
    run: Callable[[Attachment, bool], int] = import_module(f".{task}", __name__).run
    return run(attachment, deleted)
