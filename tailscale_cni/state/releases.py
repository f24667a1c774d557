"""Identities of the cluster's (``state.vault``) that this host is to give back.

A file per identity in ``stateDir/releases``. It is on the disk before the vault is asked for an identity, and before the pod that had
one is forgotten. It is removed when the pod that has the identity is recorded, or when the vault knows. Whoever works on a release
holds the lock of its file: if a call was killed, nobody holds it, and the next call does the work. A file that cannot be read stays, and
each call says so: a newer version may have written it.
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
    """An identity of this disk, by its key, that is to be given back; with ``delete``, no host is to have it any more."""

    key: str
    kubeconfig: str
    namespace: str
    name: str
    delete: bool = False
    deletion: Deletion | None = None
    """The node that the control plane is to delete after that. Before that, it may be another host's node."""
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""


FAREWELL = "farewell"
"""What version 0.1.0 calls ``deletion``, and so does the file."""


class Releases:
    """The releases of one host."""

    def __init__(self, state_dir: str) -> None:
        """No directory is made before there is a release."""
        self.state_dir = state_dir
        self.root = f"{state_dir}/releases"

    def post(self, release: Release) -> None:
        """Write one down. Raises InputOutput, UnsafeDirectory."""
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
        """The release of an identity; None if there is none, or if it cannot be read."""
        path = self._path(key)
        try:
            document = files.read_json(path)
            return None if document is None else _decode(key, document)
        except (errors.Error, ValueError) as e:
            reason = e if isinstance(e, errors.Error) else errors.UnreadableState(path=path, reason=e)
            records.warn(f"an identity that is to be given back stays this host's: {reason}")
            return None

    def is_there(self, key: str) -> bool:
        """Whether there is one, if only a file that cannot be read."""
        return "/" not in key and os.path.lexists(self._path(key))

    def all(self) -> Iterator[Release]:
        """Every one that can be read. A file that cannot be read disturbs no other."""
        for name in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else ():
            release = self.get(name.removesuffix(".json")) if name.endswith(".json") else None
            if release:
                yield release

    def hold(self, key: str, seconds: float = 0) -> int | None:
        """A descriptor that keeps others away from a release; None if it is done, or if others hold it for longer than ``seconds``."""
        return files.hold(self._path(key), seconds)

    def waiting(self, seconds: float) -> bool:
        """Whether there is one that nobody has tried to deliver for so long."""
        for release in self.all():
            with contextlib.suppress(OSError):
                age = time.time() - os.lstat(self._path(release.key)).st_mtime
                if not 0 <= age < seconds:  # a time in the future says nothing
                    return True
        return False

    def postpone(self, key: str) -> None:
        """The vault could not be told just now."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def done(self, key: str) -> None:
        """The vault knows, or need not know."""
        files.remove(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}.json"


def _decode(key: str, document: dict[str, Any]) -> Release:
    """Raises ValueError: what this says is done to an identity, so nothing in it is guessed."""
    renamed = {("deletion" if name == FAREWELL else name): value for name, value in document.items()}
    release = records.decode(Release, renamed, parsers={"deletion": _deletion})
    if release.key != key:
        raise ValueError("it is about another identity")
    if not (is_label(release.namespace) and is_label(release.name)):
        raise ValueError("it does not say whose identity it is")
    return release


def _deletion(value: Any) -> Deletion | None:
    return None if value is None else outbox.decode(value)
