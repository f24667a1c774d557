"""Files that survive a crash, directories that only root can write to, and locks that leave nothing behind.

The one place that writes state. It must not know what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time

try:  # hashlib's own, without the OpenSSL that importing it loads
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s
from typing import TYPE_CHECKING, Any

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 2**20
"""Bytes of a file of state; ours have a few hundred."""


def digest(text: bytes, size: int) -> str:
    """A name for what cannot be one itself: ``size`` bytes of BLAKE2s, in hex."""
    return blake2s(text, digest_size=size).hexdigest()


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory of root, or check that the one that is there is root's alone to write to.

    Raises UnsafeDirectory for a symlink, a foreign owner, or one that group or others can write to.
    """
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, mode)  # mkdir's mode is cut by the umask
        status = os.lstat(path)
    except OSError as e:
        raise errors.InputOutput(
            what=f"the directory {path} cannot be made", reason=e.strerror, path=path
        ) from None
    if stat.S_ISLNK(status.st_mode):
        raise errors.UnsafeDirectory(path=path, reason="it is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise errors.UnsafeDirectory(path=path, reason="it is not a directory")
    if status.st_uid != os.geteuid():
        raise errors.UnsafeDirectory(path=path, reason=f"it belongs to uid {status.st_uid}")
    if status.st_mode & 0o022:
        raise errors.UnsafeDirectory(path=path, reason="group or others can write to it")
    if status.st_mode & mode != mode:  # made by hand, or by a call that was killed before it came so far
        os.chmod(path, status.st_mode & 0o777 | mode)


def write(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace a file as a whole: after a crash, and after a power cut, it is the old one or the new one.

    Its directory must be root's. The temporary file's name does not end as the file's does: a runtime
    that reads every .conflist never reads half of one, and the rename is what it watches for. Raises
    InputOutput.
    """
    _replace(path, content, mode, durable=True)


def write_volatile(path: str, content: bytes, mode: int = 0o600) -> None:
    """``write``, of what is of no use after a reboot, and in a directory that does not outlive one."""
    _replace(path, content, mode, durable=False)


def _replace(path: str, content: bytes, mode: int, *, durable: bool) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}~")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as f:
            os.fchmod(fd, mode)  # open's mode is cut by the umask
            f.write(content)
            f.flush()
            if durable:
                os.fsync(fd)
        os.rename(temporary, path)
        if durable:
            sync_directory(directory)
    except OSError as e:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise errors.InputOutput(
            what=f"{path} cannot be written", reason=e.strerror, path=directory
        ) from None


def put(path: str, content: bytes, mode: int) -> bool:
    """``write``, unless the file is so already, and its directory if it is not there; whether anything changed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            if f.read(len(content) + 1) == content and os.fstat(f.fileno()).st_mode & 0o777 == mode:
                return False
    except OSError:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    write(path, content, mode)
    return True


def write_json(path: str, document: Any, mode: int = 0o600) -> None:
    """``write``, of a JSON document."""
    write(path, json.dumps(document, separators=(",", ":")).encode() + b"\n", mode)


def sync_directory(path: str) -> None:
    """Make what was renamed in a directory last over a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bytes(path: str) -> bytes | None:
    """What is in a file; None if there is none. It never waits: a FIFO that nobody writes to would hold a call for ever.

    Raises UnreadableState for what is no regular file, or larger than LARGEST; InputOutput.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise errors.UnreadableState(path=path, reason="it is not a regular file")
            content = chunk = os.read(fd, 65536)
            while chunk and len(content) <= LARGEST:
                chunk = os.read(fd, 65536)
                content += chunk
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:  # the path itself: NUL, or half a character
        raise errors.UnreadableState(path=errors.show(path), reason="that is no path") from None
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
            raise errors.UnreadableState(path=path, reason="it is not a regular file") from None
        raise errors.InputOutput(what=f"{path} cannot be read", reason=e.strerror, path=path) from None
    if len(content) > LARGEST:
        raise errors.UnreadableState(path=path, reason=f"it is larger than {LARGEST} bytes")
    return content


def read_json(path: str) -> dict[str, Any] | None:
    """A JSON object from a file; None if there is no file. Raises UnreadableState, InputOutput."""
    content = read_bytes(path)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise errors.UnreadableState(path=path, reason=errors.show(str(e))) from None
    if not isinstance(document, dict):
        raise errors.UnreadableState(path=path, reason="it is not a JSON object")
    return document


def read(path: str) -> str:
    """A short note of ours, in ASCII; empty if there is none, or if it cannot be read."""
    try:
        return (read_bytes(path) or b"").decode("ascii")
    except (errors.Error, ValueError):
        return ""


def read_link(path: str, default: str) -> str:
    """Where a symbolic link leads; ``default`` if it is none."""
    try:
        return os.readlink(path)
    except OSError:
        return default


def remove(path: str) -> None:
    """Remove a file; nothing if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def is_replaceable(path: str) -> bool:
    """Whether a file can be renamed to this path: there is no directory."""
    return not os.path.isdir(path) or os.path.islink(path)


def clear(path: str) -> None:
    """Remove whatever is at a path, a directory with all that is in it; nothing if nothing is there. Raises InputOutput, OSError."""
    try:
        remove(path)
    except IsADirectoryError:
        remove_tree(path)


def remove_with_drafts(path: str) -> None:
    """Remove a file that nobody writes now, and what writers that were killed have left of it; nothing if there is nothing."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        for other in os.listdir(directory):
            if other == name or (other.startswith(f".{name}.") and other.endswith("~")):
                remove(os.path.join(directory, other))


def remove_tree(path: str) -> None:
    """Remove a directory that somebody else may have written into, without following a link, however deep it is.

    Nothing if it is not there. Raises InputOutput.
    """
    try:
        with _opened(path) as top:
            while names := os.listdir(top):
                for name in names:
                    _remove_or_flatten(name, top)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as e:
        raise errors.InputOutput(what=f"{path} cannot be removed", reason=e.strerror, path=path) from None


def _remove_or_flatten(name: str, top: int) -> None:
    """Remove a file; remove a directory, what is in it lifted to the top: who nests thousands costs no descriptor each."""
    try:
        os.unlink(name, dir_fd=top)
    except IsADirectoryError:
        with _opened(name, top) as directory:
            for child in os.listdir(directory):
                os.rename(child, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
        os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(directory: str, within: int | None = None) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(
    directory: str, seconds: float, what: str, *, create: bool, shared: bool = False
) -> Iterator[bool]:
    """Hold a directory's lock, alone or ``shared`` with others who do the same; whether the directory is there.

    The directory may be removed by whoever holds the lock: who waited for it then begins again.
    ``create`` makes it when it is not there. Raises Busy after ``seconds``, naming ``what``.
    """
    deadline = time.monotonic() + seconds
    while True:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if create:
                continue
            yield False
            return
        try:
            _flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, deadline, seconds, what)
            if _is_at(fd, directory):
                yield True
                return
        finally:
            os.close(fd)


def hold(path: str, seconds: float) -> int | None:
    """A descriptor that holds a file's lock, for as long as it, or a child's copy of it, is open.

    None if there is no file that can be opened, or if others hold it for longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            _flock(fd, fcntl.LOCK_EX, deadline, seconds, path)
            if _is_at(fd, path):
                held, fd = fd, -1
                return held
        except errors.Busy:
            return None
        finally:
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def turn(path: str, *, wait: bool) -> Iterator[bool]:
    """Whether it is our turn to replace a file, for as long as the body runs; it is made, empty, if it is not there.

    It is not while somebody else's lasts; nor, after ``wait`` for that, when the file is another one by then: it has just been replaced.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            clear(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        yield _is_ours(fd, wait=wait) and _is_at(fd, path)
    finally:
        os.close(fd)


def _is_ours(fd: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flock(fd: int, kind: int, deadline: float, seconds: float, what: str) -> None:
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise errors.Busy(what=what, seconds=seconds) from None
            time.sleep(0.02)
        else:
            return


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
