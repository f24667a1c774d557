"""How soon a control plane may be asked for a key again: for one pod, and for all pods of a host.

A request is written down before it is made, so that lost answers and crashes count. Each further key for a pod that is still not on the
tailnet takes twice as long as the one before. While a control plane does not answer, the whole host asks it ever less often. Delays
have jitter. Times are CLOCK_BOOTTIME, so a reboot begins anew, and the wall clock does not matter.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors, linux
from . import files, records
from .attachments import LOCK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HOST = "host"
KEPT = 3600.0
"""Seconds that a pod's entry outlives its last request: kubelet tries a pod that fails again, with the same UID. No delay is longer."""


class Delays(NamedTuple):
    """Seconds from the first request to the second, and the most between two."""

    first: float
    longest: float


EACH = Delays(2.0, 300.0)
"""Between a pod's keys, each of which may have been made."""

UNREACHED = Delays(1.0, 4.0)
"""While no request can arrive: pods are on the tailnet soon after the control plane is back."""

UNANSWERED = Delays(1.0, 60.0)
"""Of a whole host: the control plane is overloaded."""


class TooSoon(Exception):
    """It is too soon to ask again: ``seconds`` are to be waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it is too soon by {seconds:.0f} s")
        self.seconds = seconds


class Entry(NamedTuple):
    """What is known of a pod, or of the host: how many requests in a row have failed, and when the next one may be made."""

    boot: str
    failures: int = 0
    until: float = 0.0
    """CLOCK_BOOTTIME, in seconds."""
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""


class Backoff:
    """The requests of one host."""

    def __init__(self, run_dir: str) -> None:
        """``run_dir`` is emptied by a reboot, after which all of this is of no use."""
        self.root = f"{run_dir}/patience"
        self._boot = linux.boot_id()

    def begin(self, who: str) -> None:
        """Write down that a key for ``who`` is about to be asked for. Raises TooSoon."""
        files.make_directory(self.root)
        with self._locked():
            self._forget_old()
            entry = self._load(_name(who))
            wait = max(entry.until, self._load(HOST).until) - _now()
            if wait > 0:
                raise TooSoon(wait)
            self._save(_name(who), self._later(entry, EACH))

    def unreached(self, who: str) -> None:
        """The request did not arrive: no key was made."""
        with self._locked():
            self._take_back(who)
            self._save(HOST, self._later(self._load(HOST), UNREACHED))

    def refused(self, who: str) -> None:
        """The answer is no, however often it is asked. A person is mending it, and wants to see what the next try says."""
        with self._locked():
            self._take_back(who)
            files.remove(f"{self.root}/{HOST}")

    def unanswered(self, retry_after: float) -> None:
        """There was no answer, or it was to ask again after ``retry_after`` seconds."""
        with self._locked():
            entry = self._later(self._load(HOST), UNANSWERED)
            self._save(HOST, entry._replace(until=max(entry.until, _now() + retry_after)))

    def answered(self) -> None:
        """The control plane has answered."""
        with self._locked():
            files.remove(f"{self.root}/{HOST}")

    def connected(self, who: str) -> None:
        """The pod is on the tailnet: its next request is its first."""
        files.remove(f"{self.root}/{_name(who)}")

    def _take_back(self, who: str) -> None:
        entry = self._load(_name(who))
        if entry.failures > 1:
            self._save(_name(who), entry._replace(failures=entry.failures - 1, until=0.0))
        else:
            files.remove(f"{self.root}/{_name(who)}")

    def _locked(self) -> AbstractContextManager[bool]:
        return files.locked(self.root, LOCK_SECONDS, "the requests to the control plane", create=True)

    def _load(self, name: str) -> Entry:
        """What is known in this boot. A file that cannot be read says nothing, and is removed."""
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
        """After one more failure. A delay is cut by up to a half, so that pods that failed together do not ask together."""
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
    """The runtime chooses a pod's UID, so that is no name of a file."""
    return files.digest(who.encode(), 8)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
