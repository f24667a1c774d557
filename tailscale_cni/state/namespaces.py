"""What the cluster's API last said of each namespace: a small file per namespace, so that no pod waits for the API twice.

The answer is used however old it is, and is renewed meanwhile. The fast path reads the same file (packaging/front/): ``enroll`` is
its word for "a pod that says nothing is no node". It holds from ``asked`` until ``until``, in seconds of CLOCK_MONOTONIC. After a
reboot both are older or newer than now, and the API is asked again.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..tailnet import is_label
from . import files, records

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
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""

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
        """What is known of a namespace. A file that cannot be read, or of a newer version, says nothing: it is written anew."""
        try:
            known = records.load(Known, self._path(name), parsers={"annotations": _annotations})
        except errors.Error:
            known = None
        return known if known and known.version == records.VERSION else Known()

    def renew(self, name: str, ask: Callable[[], Mapping[str, str]], *, wait: bool) -> None:
        """Ask, and keep the answer; if there is none, keep what was known, and why. One at a time: ``wait`` for somebody else's answer.

        Raises UnsafeDirectory, InputOutput, OSError: a disk that is full.
        """
        files.make_directory(self.state_dir, 0o711)
        files.make_directory(self.root)
        with files.turn(self._path(name), wait=wait) as ours:
            if not ours:
                return
            known = self.get(name)
            try:
                known = known._replace(annotations=ask(), failure="")
            except errors.Error as e:
                known = known._replace(failure=str(e))
            now = int(time.monotonic())
            files.write(self._path(name), _encoded(known._replace(asked=now, until=now + FRESH)))
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
                files.clear(f"{self.root}/{name}")


def _encoded(known: Known) -> bytes:
    said = None if known.annotations is None else known.annotations.get("tailscale.com/enabled", "false")
    return records.dump(
        {**records.document(known), "enroll": "annotated" if said == "false" else "namespaces"}
    )


def _annotations(value: Any) -> Mapping[str, str] | None:
    """Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("no annotations")  # noqa: TRY004 - see records.decode
    return {key: records.plain(text, "") for key, text in value.items()}
