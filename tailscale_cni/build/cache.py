"""The artefact as a file: unpacked into a stateDir, pruned from there, fitted to a host's Python.

Two things are true of an unpacked build, whenever one sees it: it is whole and on the disk (it gets its mark, then its
name, after all of it was written through), and nobody but root can write to it. Calls hold a shared lock on theirs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from .artefact import build_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zipfile import ZipFile


MARK = "complete"
"""The file that is written last."""

UNPACK_TIMEOUT = 5.0
"""Seconds that a call waits for another call that is unpacking."""


def unpack(archive: str, build: str, state_dir: str) -> Path:
    """Unpack the archive under ``state_dir/cache/<build>``, unless it is there already. Returns its site-packages.

    Shiv's bootstrap does the unpacking. It only asks whether the folder exists, though, and renames it without fsync: after
    a power cut that folder can be full of empty files. So it works in a directory that nobody looks into, and what comes
    out gets its name when it is on the disk. Raises OSError, also where a directory is not safe to run code from.
    """
    cache = Path(state_dir, "cache")
    target = cache / build
    _make_safe_directory(Path(state_dir), 0o711)
    _make_safe_directory(cache, 0o755)
    with _locked(cache):
        if not _is_whole(target):
            _sweep(cache)
            with _scratch(cache) as scratch:
                _extract(archive, scratch / build)
                if os.path.lexists(target):
                    target.rename(scratch / "replaced")
                (scratch / build).rename(target)
                _sync(cache)
    return target / "site-packages"


def prune(state_dir: str) -> list[str]:
    """Remove the unpacked builds that nothing uses: not this one, no running call's, no running program's.

    Returns their build IDs. What cannot be removed is left for the next time.
    """
    import fcntl
    import shutil

    cache, running, removed = Path(state_dir, "cache"), set(_running_programs()), []
    with contextlib.suppress(OSError), _locked(cache):
        for build in sorted(cache.iterdir()):
            if build.name in (build_id(), "") or any(program.startswith(f"{build}/") for program in running):
                continue
            with contextlib.suppress(OSError), _open_directory(build) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unwanted = build.rename(cache / f".{build.name}")
                shutil.rmtree(unwanted)
                removed.append(build.name)
    return removed


def _running_programs() -> Iterator[str]:
    """The files that processes of this host execute."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield str((process / "exe").readlink())


def _make_safe_directory(path: Path, mode: int) -> None:
    """Make it, or see that the one which is there is a directory that only its owner, us or root, can write to."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700, parents=True)
        path.chmod(mode)  # mkdir's mode is cut by the umask
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise PermissionError(f"{path} is not a directory that only root can write to")
    if status.st_mode & mode != mode:  # made by a call that was killed before it came so far
        path.chmod(status.st_mode & 0o777 | mode)


def _is_whole(target: Path) -> bool:
    """Whether a build is there as ``unpack`` makes it."""
    try:
        status = target.lstat()
        safe = (
            stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
        )
        return safe and (target / MARK).is_file()
    except OSError:
        return False


@contextlib.contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the one lock for changes to the cache. Raises TimeoutError if another call holds it for too long."""
    import fcntl
    import time

    give_up = time.monotonic() + UNPACK_TIMEOUT
    with _open_directory(cache) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise TimeoutError("another call has been unpacking for too long") from None
                time.sleep(0.02)
        yield


def _sweep(cache: Path) -> None:
    """Remove what calls that were killed have left. Whoever holds the lock is the only one at work."""
    import shutil

    for left in cache.glob(".*"):
        shutil.rmtree(left)


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix=".", dir=cache))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _extract(archive: str, target: Path) -> None:
    """All of the archive's site-packages, with its mark, written through to the disk."""
    import sys
    from zipfile import ZipFile

    sys.path.append(archive)
    try:
        from _bootstrap import extract_site_packages  # type: ignore[import-not-found]
    finally:
        sys.path.remove(archive)
    with ZipFile(archive) as file:
        _check_space(file, target.parent)
        umask = os.umask(0o022)
        try:
            extract_site_packages(file, target)
        finally:
            os.umask(umask)
    for folder, _, names in os.walk(target, topdown=False):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))
    (target / MARK).touch(0o644)
    _sync(target)


def _check_space(archive: ZipFile, where: Path) -> None:
    """See beforehand whether the disk has room: filling it to the brim would disturb others."""
    import errno

    disk = os.statvfs(where)
    if disk.f_bavail * disk.f_frsize < 2 * sum(entry.file_size for entry in archive.infolist()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
