"""How soon a control plane may be asked for a key again: for one pod, and for all of a host.

A question is written down before it is asked, so that lost answers and crashes count. Each further key for a pod that is still not
on the tailnet takes twice as long as the one before; a control plane that does not answer is asked by everybody on the host ever
less often. Times are jittered, and those of the boot's own clock: a reboot begins anew, and no wall clock is looked at.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors, linux
from . import files
from .attachments import LOCK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HOST = "host"
KEPT = 3600.0
"""Seconds that a pod's entry outlives its last question: a pod that fails is tried again as the same one."""


class Delays(NamedTuple):
    """Seconds from the first question to the second, and the most there are between two."""

    first: float
    longest: float


EACH = Delays(2.0, 300.0)
"""Between a pod's keys, each of which may have been made."""

UNREACHED = Delays(1.0, 4.0)
"""While nothing can come of a question: who waits is on the tailnet soon after the control plane is back."""

UNANSWERED = Delays(1.0, 60.0)
"""Of a whole host: the control plane has more than it can do."""


class TooSoon(Exception):
    """It is too soon to ask again: ``seconds`` are to be waited."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it is too soon by {seconds:.0f} s")
        self.seconds = seconds


class _Entry(NamedTuple):
    """What is known of a pod, or of the host: how often in a row it was in vain, and when the next question may be asked."""

    boot: str
    failures: int = 0
    until: float = 0.0
    """CLOCK_BOOTTIME, in seconds."""


class Patience:
    """The questions of one host."""

    def __init__(self, run_dir: str) -> None:
        """Of no use after a reboot, so it is kept where nothing outlives one."""
        self.root = f"{run_dir}/patience"
        self._boot = linux.boot_id()

    def begin(self, who: str) -> None:
        """Take note of a question that is about to be asked for ``who``. Raises TooSoon."""
        files.make_directory(self.root)
        with self._locked():
            self._forget_old()
            entry = self._load(_name(who))
            wait = max(entry.until, self._load(HOST).until) - _now()
            if wait > 0:
                raise TooSoon(wait)
            self._save(_name(who), self._later(entry, EACH))

    def unreached(self, who: str) -> None:
        """The question did not get through: nothing can have come of it."""
        with self._locked():
            self._take_back(who)
            self._save(HOST, self._later(self._load(HOST), UNREACHED))

    def refused(self, who: str) -> None:
        """The answer is no, whoever asks how often: a person looks at it meanwhile, and at what the next try says."""
        with self._locked():
            self._take_back(who)
            files.remove(f"{self.root}/{HOST}")

    def unanswered(self, retry_after: float) -> None:
        """There was no answer, or one to ask again after some seconds."""
        with self._locked():
            entry = self._later(self._load(HOST), UNANSWERED)
            self._save(HOST, entry._replace(until=max(entry.until, _now() + retry_after)))

    def answered(self) -> None:
        """The control plane is there."""
        with self._locked():
            files.remove(f"{self.root}/{HOST}")

    def connected(self, who: str) -> None:
        """It has been worth it: what comes next begins anew."""
        files.remove(f"{self.root}/{_name(who)}")

    def _take_back(self, who: str) -> None:
        entry = self._load(_name(who))
        if entry.failures > 1:
            self._save(_name(who), entry._replace(failures=entry.failures - 1, until=0.0))
        else:
            files.remove(f"{self.root}/{_name(who)}")

    def _locked(self) -> AbstractContextManager[bool]:
        return files.locked(self.root, LOCK_SECONDS, "the questions to the control plane", create=True)

    def _load(self, name: str) -> _Entry:
        """What is known in this boot; what cannot be read is nothing."""
        try:
            found = files.read_json(f"{self.root}/{name}") or {}
            entry = _Entry(str(found["boot"]), int(found["failures"]), float(found["until"]))
        except (errors.UnreadableState, KeyError, TypeError, ValueError, OverflowError):
            return _Entry(self._boot)
        return entry if entry.boot == self._boot else _Entry(self._boot)

    def _save(self, name: str, entry: _Entry) -> None:
        files.write_volatile(f"{self.root}/{name}", json.dumps(entry._asdict()).encode())

    def _later(self, entry: _Entry, delays: Delays) -> _Entry:
        """Once more in vain. A delay is cut by up to a half, so that those who failed together do not come together."""
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
    """A pod's UID is the runtime's to choose: it is no file's name."""
    return files.digest(who.encode(), 8)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
