"""Linux system calls: network namespaces, TUN interfaces, processes. Imports only the standard library and ``errors``.

Every start of a node runs ``worker run``, which imports this module instead of pyroute2 (100 ms).
The constants are the kernel's; a comment names the header that each is from.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING

from . import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLONE_NEWNET = 0x40000000  # linux/sched.h
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
SO_NETNS_COOKIE = 71  # asm-generic/socket.h, since 5.14
TUNSETIFF = 0x400454CA  # linux/if_tun.h
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
SIOCSIFMTU = 0x8922  # linux/sockios.h

OWN_NETNS = "/proc/self/ns/net"


def open_netns(path: str) -> int:
    """Open the network namespace at ``path`` and return its descriptor.

    Raises InvalidNetns if it cannot be opened, or is not a network namespace.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise errors.InvalidNetns(path=errors.show(path), reason=reason) from None
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise errors.InvalidNetns(path=errors.show(path), reason="it is something else")
    return fd


@contextlib.contextmanager
def in_netns(netns: str | int) -> Iterator[None]:
    """Run the body with the calling thread in a network namespace (path or descriptor), then return to the former one.

    Raises InvalidNetns, OSError.
    """
    home = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    there = open_netns(netns) if isinstance(netns, str) else netns
    try:
        enter_netns(there)
        try:
            yield
        finally:
            enter_netns(home)
    finally:
        os.close(home)
        if isinstance(netns, str):
            os.close(there)


def enter_netns(fd: int) -> None:
    """Move the calling thread into the network namespace of a descriptor. Raises OSError."""
    if hasattr(os, "setns"):
        os.setns(fd, CLONE_NEWNET)
        return
    import ctypes  # os.setns exists since Python 3.12

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def netns_cookie() -> int | None:
    """The cookie of the calling thread's network namespace. It is unique until a reboot. None before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return None


def is_own_netns(fd: int) -> bool:
    """Whether a descriptor belongs to the network namespace of this process."""
    there, here = os.fstat(fd), os.stat(OWN_NETNS)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def open_tun(name: str, owner: int, mtu: int, wait: float = 0) -> int:
    """Create, or attach to, the persistent TUN interface ``name`` in the calling thread's network namespace. Returns its descriptor.

    A persistent interface keeps its addresses and routes after the descriptor is closed. ``owner`` (a uid) owns it, because every
    process could attach to an interface without an owner. ``mtu`` is in bytes. Raises OSError: EBUSY if another process still holds
    the interface after ``wait`` seconds.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
        _attach(fd, struct.pack("16sH22x", name.encode(), flags), wait)
        fcntl.ioctl(fd, TUNSETOWNER, owner)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _attach(fd: int, request: bytes, wait: float) -> None:
    """TUNSETIFF, repeated for ``wait`` seconds while the interface is busy."""
    import time

    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.ioctl(fd, TUNSETIFF, request)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def has_interface(name: str) -> bool:
    """Whether the calling thread's network namespace has an interface ``name``."""
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def boot_id() -> str:
    """The ID of this boot. Processes and namespaces that were recorded under another boot ID no longer exist."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        return f.read().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended or is a zombie.

    proc(5), /proc/pid/stat, field 22.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Process:
    """A process, identified by its PID and start time, so that a later process with the same PID is not mistaken for it."""

    def __init__(self, pid: int, started: int) -> None:
        """``started`` is the process's ``start_time``."""
        self.pid = pid
        self.started = started

    def alive(self) -> bool:
        """Whether the process still runs."""
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def end(self, grace: float) -> None:
        """Send SIGTERM, and after ``grace`` seconds SIGKILL; wait for the end of the process. Does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if not self.alive():
                    return
                for number, seconds in (
                    (signal.SIGTERM, grace),
                    (signal.SIGKILL, 5.0),
                ):
                    signal.pidfd_send_signal(handle, number)
                    if select.select([handle], [], [], seconds)[0]:
                        return
            finally:
                os.close(handle)


def is_uid_in_use(uid: int) -> bool:
    """Whether a process of this PID namespace has the real user ID ``uid``. Containers may use the same IDs for their own processes."""
    here = os.readlink("/proc/self/ns/pid")
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{entry}/status", encoding="utf-8", errors="replace") as f,
            ):
                line = next((line for line in f if line.startswith("Uid:")), "")
                if line.split()[1:2] == [str(uid)] and os.readlink(f"/proc/{entry}/ns/pid") == here:
                    return True
    return False


def detach(become: Callable[[], object], log: str = os.devnull, keep: tuple[int, ...] = ()) -> int:
    """Fork a child that leads a session of its own and runs ``become``, then exits. Returns its PID.

    The child keeps only the descriptors in ``keep``: the runtime waits for the end of our output, and others wait for our locks, so
    the child must hold neither. Its output and its exception go to the file ``log``. A fork needs no time; starting another Python
    would take as long as the rest of an ADD.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        # SIGHUP wakes a supervisor. It must not end a child that is not a supervisor yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
        for standard in (1, 2):
            os.dup2(os.open(log, append, 0o600), standard)
        _close_all_but(keep)
        become()
    except BaseException as e:  # noqa: BLE001 - the child must not continue as a copy of its parent
        os.write(2, f"{type(e).__name__}: {e}\n".encode())
    finally:
        os._exit(1)  # without unwinding the parent's context managers


def _close_all_but(keep: tuple[int, ...]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
                os.close(int(name))


def run_bounded(
    function: Callable[[], bytes], wait: float, lifetime: int, keep: tuple[int, ...] = ()
) -> bytes | None:
    """Run ``function`` in a detached child and return its result; None if it fails, or takes longer than ``wait`` seconds.

    This bounds calls that have no time-out of their own, such as a hanging resolver. After ``wait`` the child continues on its own,
    until SIGALRM ends it ``lifetime`` seconds after its start. The child holds the descriptors in ``keep`` until it exits.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def answer() -> None:
        if os.fork():  # the grandchild is reparented, so it never becomes our zombie
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(lifetime)
        os.close(reading)
        rest = b"=" + function()  # the mark tells an empty result from a failure
        while rest:
            rest = rest[os.write(writing, rest) :]

    try:
        child = detach(answer, keep=(reading, writing, *keep))
        os.close(writing)
        os.waitpid(child, 0)
        return _read_result(reading, wait)
    finally:
        os.close(reading)


def _read_result(reading: int, wait: float) -> bytes | None:
    """All that is written until the end, without the mark; None if that takes longer than ``wait`` seconds, or no mark came."""
    import time

    deadline, result = time.monotonic() + wait, b""
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            return result[1:] if result else None
        result += part
    return None


def seconds_left(deadline: float, least: float = 0.0) -> float:
    """Seconds until ``deadline`` (CLOCK_MONOTONIC), but at least ``least``."""
    import time

    return max(least, deadline - time.monotonic())


def is_udp_port_free(port: int) -> bool:
    """Whether no socket uses the UDP port. Tailscale silently takes another port if its own is busy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def booted_with_systemd() -> bool:
    """Whether PID 1 is systemd: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def disable_core_dumps() -> None:
    """Disable core dumps of this process and its children, because a core dump may contain secrets."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
