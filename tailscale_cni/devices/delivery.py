"""Delivering a queue with retries, by one process at a time.

``deletions`` tells the control plane which devices to delete. ``identity.release`` tells the cluster's API which identities are free. An
entry that one call could not deliver stays on disk for the next call.
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
"""Seconds for which a detached child retries."""

MIN_PAUSE, MAX_PAUSE = 1.0, 8.0
"""Seconds between two attempts, at first and at most. In the pause, a returning pod can take an identity that is not released yet."""


def deliver(
    root: str, what: str, deliver_all: Callable[[], int], seconds: float, *, patience: float = 0
) -> int:
    """Call ``deliver_all`` until nothing is left in the queue, whose directory is ``root``, for at most ``seconds``.

    Both functions return how many entries are left. If another process is delivering the queue, wait up to ``patience`` seconds for it,
    then return 0, because that process delivers the rest. ``what`` names the queue.
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
