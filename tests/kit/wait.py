"""Waiting for something to become true: the only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], T | None], deadline: float = 30.0, *, what: str = "", poll: float = POLL_SECONDS
) -> T:
    """The first true value of ``condition()``, which is asked again after ``poll`` seconds.

    Raises TimeoutError after ``deadline`` seconds, with ``what`` was waited for and what the condition said last.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(
                f"not within {deadline:g} s: {what or condition.__qualname__}; the last answer was {value!r}"
            )
        time.sleep(poll)
    return value


def pass_time(seconds: float) -> None:
    """Let that much time go by: for what is measured over time. A test waits for what it waits for."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 60)
