"""What this host owes the vault (``state.vault``): identities that it may hold there, and that are to be given back.

A file per identity, on the disk before the vault is asked for one, and before the pod that had one is forgotten; removed when the pod
that has it is recorded, or when the vault knows. Whoever is at work on one holds the file's lock: a call that was killed leaves a file that
nobody holds, and what it says is then done by the next one.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from ..json_fields import as_dict
from ..tailnet import is_label
from . import files
from .outbox import Farewell

if TYPE_CHECKING:
    from collections.abc import Iterator


class Release(NamedTuple):
    """An identity of this disk, by its key, that is to be given back; or, with ``delete``, to be nobody's ever."""

    key: str
    kubeconfig: str
    namespace: str
    name: str
    delete: bool = False
    farewell: Farewell | None = None
    """What the control plane is told then: not before, as the node may be another host's by now."""


class Releases:
    """Those of one host."""

    def __init__(self, state_dir: str) -> None:
        """Nothing is made before there is one."""
        self.root = f"{state_dir}/releases"

    def post(self, release: Release) -> None:
        """Write one down. Raises InputOutput."""
        files.make_directory(self.root)
        farewell = release.farewell and release.farewell._asdict()
        files.write_json(self._path(release.key), {**release._asdict(), "farewell": farewell})

    def get(self, key: str) -> Release | None:
        """The one of an identity."""
        with contextlib.suppress(errors.UnreadableState, TypeError):
            document = files.read_json(self._path(key)) or {}
            release = Release(**{name: document[name] for name in Release._fields if name in document})
            if release.farewell:
                release = release._replace(farewell=Farewell(**as_dict(release.farewell)))
            if release.key == key and is_label(release.namespace) and is_label(release.name):
                return release
        return None

    def is_there(self, key: str) -> bool:
        """Whether there is one, if only a file that cannot be read."""
        return "/" not in key and os.path.lexists(self._path(key))

    def all(self) -> Iterator[Release]:
        """Every one. A file that cannot be read disturbs no other."""
        names = sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        for name in names:
            release = self.get(name.removesuffix(".json")) if name.endswith(".json") else None
            if release:
                yield release

    def hold(self, key: str, seconds: float = 0) -> int | None:
        """A descriptor that keeps others away from one; None if it is done, or others are at it for longer than that."""
        return files.hold(self._path(key), seconds)

    def waiting(self, seconds: float) -> bool:
        """Whether there is one that nobody has tried to deliver for so long."""
        with contextlib.suppress(OSError):
            ages = [time.time() - os.lstat(f"{self.root}/{name}").st_mtime for name in os.listdir(self.root)]
            return any(not 0 <= age < seconds for age in ages)  # nor was it tried in the future
        return False

    def postpone(self, key: str) -> None:
        """Somebody has just tried, in vain."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def done(self, key: str) -> None:
        """The vault knows, or need not."""
        files.remove(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}.json"
