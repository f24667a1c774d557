"""Releases: identities in the cluster (``identity.secret_store``) that this host has not released yet.

``stateDir/releases`` has a file per identity. The file is on disk before the host leases an identity from the cluster, and before the
record of a pod with an identity is removed. The file is removed when the identity's pod is recorded, or when the cluster has been told. A
process that works on a release holds the lock of its file. If the process is killed, the lock is free, and the next call does the work.
A file that cannot be read stays, because a newer version may have written it, and each call warns about it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..tailnet import is_label
from . import files, outbox, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .outbox import Deletion


class Release(NamedTuple):
    """An identity on this disk to release, by its key. With ``delete``, the identity is also deleted from the cluster."""

    key: str
    kubeconfig: str
    namespace: str
    name: str
    delete: bool = False
    deletion: Deletion | None = None
    """The node that the control plane deletes after the release. Before the release, the node may be another host's."""
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""


FAREWELL = "farewell"
"""The name of the field ``deletion`` in the file, as in version 0.1.0."""


class Releases:
    """The releases of one host."""

    def __init__(self, state_dir: str) -> None:
        """Creates no directory before there is a release."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/releases"

    def post(self, release: Release) -> None:
        """Write a release to disk. Raises InputOutput, UnsafeDirectory."""
        files.make_directory(self.root)
        path = self._path(release.key)
        known = self.get(release.key)
        if known:
            release = release._replace(version=known.version, unknown=known.unknown)
        elif os.path.lexists(path):
            records.set_aside(self.state_dir, path)
        document = records.document(release)
        del document["deletion"]
        document[FAREWELL] = release.deletion.document() if release.deletion else None
        files.write(path, records.dump(document))

    def get(self, key: str) -> Release | None:
        """The release of an identity; None if there is none, or if its file cannot be read."""
        path = self._path(key)
        try:
            document = files.read_json(path)
            return None if document is None else _decode(key, document)
        except (errors.Error, ValueError) as e:
            reason = e if isinstance(e, errors.Error) else errors.UnreadableState(path=path, reason=e)
            records.warn(f"an identity that is to be given back stays this host's: {reason}")
            return None

    def is_there(self, key: str) -> bool:
        """Whether an identity has a release. A file that cannot be read counts, too."""
        return "/" not in key and os.path.lexists(self._path(key))

    def all(self) -> Iterator[Release]:
        """All releases that can be read. A file that cannot be read does not affect the others."""
        for name in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else ():
            release = self.get(name.removesuffix(".json")) if name.endswith(".json") else None
            if release:
                yield release

    def hold(self, key: str, seconds: float = 0) -> int | None:
        """Lock a release; return the descriptor. None if the release is done, or if others hold the lock for longer than ``seconds``."""
        return files.hold(self._path(key), seconds)

    def waiting(self, seconds: float) -> bool:
        """Whether there is a release whose last attempt is at least ``seconds`` ago."""
        for release in self.all():
            with contextlib.suppress(OSError):
                age = time.time() - os.lstat(self._path(release.key)).st_mtime
                if not 0 <= age < seconds:  # a time in the future is wrong, so the age is unknown
                    return True
        return False

    def postpone(self, key: str) -> None:
        """Record that an attempt failed now."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def done(self, key: str) -> None:
        """Remove a release, because the cluster has been told or need not be told."""
        files.remove(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}.json"


def _decode(key: str, document: dict[str, Any]) -> Release:
    """Parse a release strictly, because it decides what happens to an identity. Raises ValueError."""
    renamed = {("deletion" if name == FAREWELL else name): value for name, value in document.items()}
    release = records.decode(Release, renamed, parsers={"deletion": _deletion})
    if release.key != key:
        raise ValueError("it is about another identity")
    if not (is_label(release.namespace) and is_label(release.name)):
        raise ValueError("it does not say whose identity it is")
    return release


def _deletion(value: Any) -> Deletion | None:
    return None if value is None else outbox.decode(value)
