"""A cache of namespace annotations from the cluster's API: a small file per namespace, so that pods do not wait for the API.

An answer of any age is used, and is renewed in the meantime. The fast path reads the same file (packaging/front/): with ``enroll``
``annotated``, a pod without an annotation is not enrolled. The file is fresh from ``asked`` until ``until``, in seconds of
CLOCK_MONOTONIC. After a reboot, the current time is outside of that span, and the API is asked again.
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
"""Seconds until the API is asked again, whatever the answer was."""

MOST = 1000
"""The most files that are kept, because namespaces come and go."""


class Known(NamedTuple):
    """The cached answer about a namespace.

    ``annotations`` is None until the API has answered once. ``failure`` is why the last request had no answer.
    """

    annotations: Mapping[str, str] | None = None
    asked: int = 0
    until: int = 0
    failure: str = ""
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""

    @property
    def is_fresh(self) -> bool:
        """Whether the API was asked less than FRESH seconds ago."""
        return self.asked <= time.monotonic() < self.until


class Namespaces:
    """The namespaces that a host has seen. Names are DNS labels."""

    def __init__(self, state_dir: str) -> None:
        """Creates no directory yet."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/namespaces"

    def get(self, name: str) -> Known:
        """The cached answer about a namespace. A file that cannot be read, or of a newer version, counts as no answer and is replaced."""
        try:
            known = records.load(Known, self._path(name), parsers={"annotations": _annotations})
        except errors.Error:
            known = None
        return known if known and known.version == records.VERSION else Known()

    def renew(self, name: str, ask: Callable[[], Mapping[str, str]], *, wait: bool) -> None:
        """Ask the API and save the answer. If there is no answer, keep the last one and save the reason.

        Only one process asks at a time. With ``wait``, other processes wait for its answer. Raises UnsafeDirectory and InputOutput, and
        OSError, for example for a full disk.
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
        """If there are more than MOST files, remove the oldest."""
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
