"""Exponential backoff for auth key requests: per pod, and for the whole host.

A request is recorded before it is sent, so that lost answers and crashes count. The delay between two keys doubles until the pod is on
the tailnet. While a control plane does not answer, the delay for the whole host grows. Delays have jitter. Times are CLOCK_BOOTTIME, so
a reboot resets them, and changes of the wall clock do not matter.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors, linux
from . import files, records
from .attachments import LOCK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HOST = "host"
KEPT = 3600.0
"""Seconds that a pod's entry is kept after its last request, because kubelet retries a failed pod with the same UID. No delay is longer."""


class Delays(NamedTuple):
    """Seconds between the first and the second request, and the longest delay between two requests."""

    first: float
    longest: float


EACH = Delays(2.0, 300.0)
"""Between two keys of one pod. The control plane may have created a key for each request."""

UNREACHED = Delays(1.0, 4.0)
"""While no request reaches the control plane. The delays are short, so that pods join the tailnet soon after it is back."""

UNANSWERED = Delays(1.0, 60.0)
"""For the whole host while the control plane is overloaded."""


class TooSoon(Exception):
    """It is too soon for the next request: wait ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it is too soon by {seconds:.0f} s")
        self.seconds = seconds


class Entry(NamedTuple):
    """The state of a pod or of the host: the number of failures in a row, and when the next request is allowed."""

    boot: str
    failures: int = 0
    until: float = 0.0
    """CLOCK_BOOTTIME, in seconds."""
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""


class Backoff:
    """The requests of one host."""

    def __init__(self, run_dir: str) -> None:
        """A reboot empties ``run_dir``, and makes its entries useless."""
        self.root = f"{run_dir}/patience"
        self._boot = linux.boot_id()

    def begin(self, who: str) -> None:
        """Record a key request for ``who`` before it is sent. Raises TooSoon."""
        files.make_directory(self.root)
        with self._locked():
            self._forget_old()
            entry = self._load(_name(who))
            wait = max(entry.until, self._load(HOST).until) - _now()
            if wait > 0:
                raise TooSoon(wait)
            self._save(_name(who), self._later(entry, EACH))

    def unreached(self, who: str) -> None:
        """Record that the request did not reach the control plane, so no key was created."""
        with self._locked():
            self._take_back(who)
            self._save(HOST, self._later(self._load(HOST), UNREACHED))

    def refused(self, who: str) -> None:
        """Record a permanent refusal. The next request may follow at once, because a person fixes the cause and wants to see the result."""
        with self._locked():
            self._take_back(who)
            files.remove(f"{self.root}/{HOST}")

    def unanswered(self, retry_after: float) -> None:
        """Record that there was no answer, or that the answer was to retry after ``retry_after`` seconds."""
        with self._locked():
            entry = self._later(self._load(HOST), UNANSWERED)
            self._save(HOST, entry._replace(until=max(entry.until, _now() + retry_after)))

    def answered(self) -> None:
        """Record that the control plane has answered."""
        with self._locked():
            files.remove(f"{self.root}/{HOST}")

    def connected(self, who: str) -> None:
        """Forget a pod's requests, because it is on the tailnet. Its next request counts as the first."""
        files.remove(f"{self.root}/{_name(who)}")

    def _take_back(self, who: str) -> None:
        entry = self._load(_name(who))
        if entry.failures > 1:
            self._save(_name(who), entry._replace(failures=entry.failures - 1, until=0.0))
        else:
            files.remove(f"{self.root}/{_name(who)}")

    def _locked(self) -> AbstractContextManager[bool]:
        return files.locked(self.root, LOCK_TIMEOUT, "the requests to the control plane", create=True)

    def _load(self, name: str) -> Entry:
        """The entry of this boot. A file that cannot be read is removed and counts as no entry."""
        path = f"{self.root}/{name}"
        try:
            entry = records.load(Entry, path)
        except errors.UnreadableState:
            files.clear(path)
            entry = None
        is_valid = entry and entry.boot == self._boot and entry.failures >= 0 and entry.until < _now() + KEPT
        return entry if entry and is_valid else Entry(self._boot)

    def _save(self, name: str, entry: Entry) -> None:
        files.write_volatile(f"{self.root}/{name}", records.encode(entry))

    def _later(self, entry: Entry, delays: Delays) -> Entry:
        """The entry after one more failure. Jitter cuts the delay by up to a half, so that pods do not retry in step."""
        delay = min(delays.longest, delays.first * 2.0 ** min(entry.failures, 16))
        jitter = int.from_bytes(os.urandom(2), "big") / 2**17
        return entry._replace(failures=entry.failures + 1, until=_now() + delay * (1 - jitter))

    def _forget_old(self) -> None:
        for name in self._names():
            if self._load(name).until + KEPT < _now():
                files.remove(f"{self.root}/{name}")

    def _names(self) -> Iterator[str]:
        return (name for name in os.listdir(self.root) if not name.startswith("."))


def _name(who: str) -> str:
    """A file name for a pod. The runtime chooses the pod's UID, so the UID itself is not safe as a file name."""
    return files.digest(who.encode(), 8)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
