"""What the cluster's API last said of each namespace: a small file, so that no pod waits for it twice.

It is used however old it is, and renewed meanwhile. The fast path (packaging/front/) reads the same file: ``enroll`` is its word for
"a pod that says nothing is no node", from ``asked`` until ``until``, in seconds of CLOCK_MONOTONIC; after a reboot it is older or newer
than now, and asked for anew.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..tailnet import is_label
from . import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FRESH = 10
"""Seconds for which nobody asks again, whatever the answer was."""

MOST = 1000
"""Files that are kept: namespaces come and go."""


class Known(NamedTuple):
    """What is known of a namespace: ``annotations`` is None as long as the API has never answered, ``failure`` why it did not last time."""

    annotations: Mapping[str, str] | None = None
    asked: int = 0
    until: int = 0
    failure: str = ""

    @property
    def is_fresh(self) -> bool:
        """Whether it was asked for just now."""
        return self.asked <= time.monotonic() < self.until


class Namespaces:
    """The namespaces that a host has seen. Names are DNS labels."""

    def __init__(self, state_dir: str) -> None:
        """Nothing is made yet."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/namespaces"

    def get(self, name: str) -> Known:
        """What is known of a namespace. A file that cannot be read says nothing: it is written anew."""
        try:
            return _known(files.read_json(self._path(name)) or {})
        except errors.Error:
            return Known()

    def renew(self, name: str, ask: Callable[[], Mapping[str, str]], *, wait: bool) -> None:
        """Ask, and keep the answer; if there is none, keep what was known, and why. One at a time: ``wait`` for somebody else's answer.

        Raises UnsafeDirectory, InputOutput, OSError: a disk that is full.
        """
        files.make_directory(self.state_dir, 0o711)
        files.make_directory(self.root)
        with files.turn(self._path(name), wait=wait) as ours:
            if not ours:
                return
            try:
                known = Known(ask())
            except errors.Error as e:
                known = self.get(name)._replace(failure=str(e))
            now = int(time.monotonic())
            files.write_json(self._path(name), _document(known._replace(asked=now, until=now + FRESH)))
        self._tidy()

    def _path(self, name: str) -> str:
        if not is_label(name):
            raise ValueError(name)
        return f"{self.root}/{name}.json"

    def _tidy(self) -> None:
        """Forget those that were asked for longest ago, when there are too many."""
        names = os.listdir(self.root)
        if len(names) > MOST:
            ages = sorted((os.lstat(f"{self.root}/{name}").st_mtime_ns, name) for name in names)
            for _, name in ages[: len(names) - MOST // 2]:
                files.remove(f"{self.root}/{name}")


def _document(known: Known) -> dict[str, Any]:
    said = None if known.annotations is None else known.annotations.get("tailscale.com/enabled", "false")
    return {"version": 1, "enroll": "annotated" if said == "false" else "namespaces", **known._asdict()}


def _known(document: Mapping[str, Any]) -> Known:
    """Raises UnreadableState for what this version has not written."""
    annotations, *numbers = (document.get(key) for key in ("annotations", "asked", "until"))
    failure = document.get("failure")
    if (
        document.get("version") != 1
        or not all(isinstance(number, int) for number in numbers)
        or not isinstance(failure, str)
        or not (annotations is None or _is_strings(annotations))
    ):
        raise errors.UnreadableState(path="a namespace's file", reason="it is another version's, or broken")
    return Known(annotations, document["asked"], document["until"], failure)


def _is_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
