"""Trying a queue of messages to others again and again for a while, by one process at a time.

``deletions`` tells the control plane which devices to delete, ``identity.release`` tells the cluster's API which identities are free. What
one call could not deliver stays on the disk for the next one.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .. import errors
from ..state import files

if TYPE_CHECKING:
    from collections.abc import Callable


DELIVERY_TIMEOUT = 60.0
"""Seconds that a detached child goes on trying."""

MIN_PAUSE, MAX_PAUSE = 1.0, 8.0
"""Seconds between two tries, at first and at most. A pod that comes back meanwhile can have an identity that is not released yet."""


def deliver(
    root: str, what: str, deliver_all: Callable[[], int], seconds: float, *, patience: float = 0
) -> int:
    """Call ``deliver_all`` until it says that nothing is left in the directory ``root``, for at most ``seconds``.

    It returns how many are left, and so does this. If another process is at it, wait ``patience`` seconds for that, and return 0:
    that process delivers the rest. ``what`` names the queue.
    """
    deadline, pause, left = time.monotonic() + seconds, MIN_PAUSE, 0
    with contextlib.suppress(errors.Busy), files.locked(root, patience, what, create=False) as there:
        while there:
            left = deliver_all()
            if not left or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)
    return left
