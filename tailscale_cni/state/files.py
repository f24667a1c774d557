"""Files that survive a crash, directories that only root can write to, and locks that leave nothing behind.

All state is written through this module. It must not know what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time

try:  # hashlib's own module: importing hashlib also loads OpenSSL
    from _blake2 import blake2s
except ImportError:
    from hashlib import blake2s
from typing import TYPE_CHECKING, Any

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 2**20
"""The largest file of state, in bytes. Ours have a few hundred."""


def digest(text: bytes, size: int) -> str:
    """A name that is safe in a path, for any text: ``size`` bytes of BLAKE2s, in hex."""
    return blake2s(text, digest_size=size).hexdigest()


def make_directory(path: str, mode: int = 0o700) -> None:
    """Create a directory of root's, or check that only root can write to an existing one.

    Raises UnsafeDirectory for a symlink, for another owner, and for a directory that group or others can write to.
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
    if status.st_mode & mode != mode:  # created by hand, or by a call that was killed before the chmod
        os.chmod(path, status.st_mode & 0o777 | mode)


def write(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: after a crash or a power cut, the old or the new content is there.

    The directory must be root's. The temporary file's name has another suffix, so that a runtime that reads every .conflist never
    reads half of one. The runtime watches for the rename. Raises InputOutput.
    """
    _replace(path, content, mode, durable=True)


def write_volatile(path: str, content: bytes, mode: int = 0o600) -> None:
    """``write`` without fsync, for content that is useless after a reboot, in a directory that a reboot empties."""
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
    """``write``, unless content and mode are right already. Creates a missing directory; returns whether anything changed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            if f.read(len(content) + 1) == content and os.fstat(f.fileno()).st_mode & 0o777 == mode:
                return False
    except OSError:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    write(path, content, mode)
    return True


def write_json(path: str, document: Any, mode: int = 0o600) -> None:
    """``write`` for a JSON document."""
    write(path, json.dumps(document, separators=(",", ":")).encode() + b"\n", mode)


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_bytes(path: str) -> bytes | None:
    """The content of a file; None if there is no file. Never waits: a FIFO without a writer would block a call for ever.

    Raises UnreadableState if this is not a regular file or if it is larger than LARGEST; InputOutput.
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
    except ValueError:  # the path itself has a NUL or an unpaired surrogate
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
    """The ASCII text of a short file of ours; empty if there is no file or it cannot be read."""
    try:
        return (read_bytes(path) or b"").decode("ascii")
    except (errors.Error, ValueError):
        return ""


def read_link(path: str, default: str) -> str:
    """The target of a symbolic link; ``default`` if the path is not a symbolic link."""
    try:
        return os.readlink(path)
    except OSError:
        return default


def remove(path: str) -> None:
    """Remove a file. Does nothing if there is no file."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def is_replaceable(path: str) -> bool:
    """Whether a file can be renamed to this path, which is so unless the path is a directory."""
    return not os.path.isdir(path) or os.path.islink(path)


def clear(path: str) -> None:
    """Remove a file, or a directory with its content. Does nothing if the path does not exist. Raises InputOutput, OSError."""
    try:
        remove(path)
    except IsADirectoryError:
        remove_tree(path)


def remove_with_drafts(path: str) -> None:
    """Remove a file, and the temporary files of writers that were killed. The caller makes sure that nothing writes the file now."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        for other in os.listdir(directory):
            if other == name or (other.startswith(f".{name}.") and other.endswith("~")):
                remove(os.path.join(directory, other))


def remove_tree(path: str) -> None:
    """Remove a directory of any depth that other users may have written to. Follows no link.

    Does nothing if there is no directory. Raises InputOutput.
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
    """Remove a file, or move the content of a directory to the top and remove it. So thousands of nested levels need two descriptors."""
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
    """Hold a directory's lock, exclusive or ``shared``; yield whether the directory exists.

    The holder of the lock may remove the directory. A waiting call then starts again. ``create`` creates a missing directory.
    Raises Busy, with ``what`` in the message, after ``seconds``.
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
    """Lock a file and return the descriptor. The lock lasts until the descriptor and all copies in child processes are closed.

    Returns None if no file can be opened, or if others hold the lock for longer than ``seconds``.
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
    """Hold the right to replace a file while the body runs; yield whether this call has it. Creates a missing file, empty.

    Another call may have the right. With ``wait``, this call waits for that call, and yields False if that call replaced the file.
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
