"""Telling others what is owed to them: written down first, and told again and again for a while, by one process at a time.

The control plane is told which nodes are no more (``devices``), the cluster's API what is given back (``returns``). What a call could not
tell is for the next one.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .. import errors
from ..state import files

if TYPE_CHECKING:
    from collections.abc import Callable


DELIVERY = 60.0
"""Seconds that a child goes on that nobody waits for."""

A_TURN, LONGEST = 1.0, 8.0
"""Seconds between two tries, at first and at most: in which a pod that comes back can have what was not given back."""


def deliver(root: str, what: str, tell: Callable[[], int], seconds: float, *, patience: float = 0) -> int:
    """Have ``tell`` try all that is in the directory ``root``, again and again for so long, until nothing is left; how many are.

    Who finds another process at it waits ``patience`` seconds, and leaves it to that.
    """
    deadline, pause, left = time.monotonic() + seconds, A_TURN, 0
    with contextlib.suppress(errors.Busy), files.locked(root, patience, what, create=False) as there:
        while there:
            left = tell()
            if not left or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)
    return left
