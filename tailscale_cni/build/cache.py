"""The unpacked builds in ``stateDir/cache``: unpack the artefact, and remove builds that nothing uses.

An unpacked build is always complete and on the disk, because it gets its mark and its name only after everything was synced. Only root
can write to it. Every call holds a shared lock on the build that it runs from.
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
"""The file that marks a complete build. It is written last."""

UNPACK_TIMEOUT = 5.0
"""Seconds that a call waits for another call that is unpacking."""


def unpack(archive: str, build: str, state_dir: str) -> Path:
    """Unpack the archive to ``state_dir/cache/<build>``, unless that is complete. Returns its site-packages.

    shiv's bootstrap unpacks the files. It renames its folder without fsync, so that a power cut can leave empty files. It therefore
    unpacks into a scratch directory, and the result gets its name after it was synced. Raises OSError, also if a directory is not safe
    to run code from.
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
    """Remove the unpacked builds except this one and those that a running call or program uses. Returns the removed build IDs.

    A build that cannot be removed is kept until the next call.
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
    """The executables of this host's processes."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield str((process / "exe").readlink())


def _make_safe_directory(path: Path, mode: int) -> None:
    """Make a directory, or check that it is one that only root or our user owns and can write to. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700, parents=True)
        path.chmod(mode)  # the umask applies to mkdir's mode
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise PermissionError(f"{path} is not a directory that only root can write to")
    if status.st_mode & mode != mode:  # the call that made it was killed before chmod
        path.chmod(status.st_mode & 0o777 | mode)


def _is_whole(target: Path) -> bool:
    """Whether a complete build, as ``unpack`` makes it, is at ``target``."""
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
    """Hold the lock for changes to the cache. Raises TimeoutError after ``UNPACK_TIMEOUT`` seconds."""
    import fcntl
    import time

    deadline = time.monotonic() + UNPACK_TIMEOUT
    with _open_directory(cache) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("another call has been unpacking for too long") from None
                time.sleep(0.02)
        yield


def _sweep(cache: Path) -> None:
    """Remove the leftovers of calls that were killed. The caller holds the lock, so no other call uses them."""
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
    """Unpack the archive's site-packages to ``target``, sync all files, and write the mark."""
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
    """Raise OSError (ENOSPC) unless the disk has twice the space that the archive needs, because a full disk would harm other programs."""
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
