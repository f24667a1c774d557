"""The build cache: directories that are keyed by content, built once, and never changed afterwards."""

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
    """A digest of 20 hex digits. It includes the length of each part, so that different lists of parts have different digests."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()[:20]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name`, which is shared by all builders that use this cache. Waits until it is free."""
    path = cache_dir() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache. If it does not exist, `build` fills a new directory, which is then renamed to it.

    `name` must contain the digest of all inputs. If another process is building the same directory, this waits for it. Leftovers of
    interrupted builds are removed.
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
