"""Waiting until a condition is true: the only module of the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
SLOWEST_POLL_SECONDS = 0.2


def wait_until(
    condition: Callable[[], T | None], deadline: float = 120.0, *, what: str = "", poll: float | None = None
) -> T:
    """Return the first true value of ``condition()``.

    The condition is evaluated every ``poll`` seconds; without ``poll`` less and less often, because most conditions start programs, and
    other tests share the CPUs. Raises TimeoutError after ``deadline`` seconds, which are enough for a busy machine.
    """
    end = time.monotonic() + deadline
    pause = poll or POLL_SECONDS
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(
                f"not within {deadline:g} s: {what or condition.__qualname__}; the last answer was {value!r}"
            )
        time.sleep(pause)
        pause = poll or min(pause * 1.2, SLOWEST_POLL_SECONDS)
    return value


def pass_time(seconds: float) -> None:
    """Let ``seconds`` pass, only to measure something over time. To wait for an event, use ``wait_until``."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 60)
