"""The build cache: directories that are made once, by content, and never changed afterwards."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/tailscale-cni`, by default under ~/.cache. It may not exist yet.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification asks.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "tailscale-cni"


def digest(parts: Iterable[str | bytes]) -> str:
    """20 hex digits over the parts, each with its length, so that no two lists of parts look the same."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()[:20]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name among all builders of this cache; wait for whoever holds it."""
    path = cache_dir() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache, made by `build(empty directory)` if it is not there yet.

    `name` must contain the digest of all inputs. The directory appears at once and whole; a second builder of
    the same waits for the first; what an interrupted one left is removed.
    """
    target = cache_dir() / name
    if target.is_dir():
        return target
    with locked(name):
        if target.is_dir():
            return target
        for left in cache_dir().glob(f".{name}.*"):
            shutil.rmtree(left)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache_dir()))
        try:
            build(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return target
