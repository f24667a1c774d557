"""Raw kernel calls: namespaces, TUN, processes. Standard library only, and nothing of ours but the errors.

``worker run`` is in the path of every start of a node, and imports this instead of pyroute2 (100 ms).
Numbers are the kernel's, from the header named beside each.
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
    """A descriptor of the network namespace at ``path``.

    Raises InvalidNetns if there is none, or something else is there.
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
    """Run the body with the calling thread in that network namespace (path or descriptor); then come back."""
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
    """Move the calling thread into the network namespace behind a descriptor."""
    if hasattr(os, "setns"):
        os.setns(fd, CLONE_NEWNET)
        return
    import ctypes  # os.setns is there from Python 3.12 on

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def netns_cookie() -> int | None:
    """The cookie of the calling thread's network namespace, which no other one gets until a reboot.

    None before Linux 5.14.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])
        except OSError:
            return None


def is_own_netns(fd: int) -> bool:
    """Whether a descriptor is of the namespace that this process is in."""
    there, here = os.fstat(fd), os.stat(OWN_NETNS)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def open_tun(name: str, owner: int, mtu: int, wait: float = 0) -> int:
    """Make, or attach to, the persistent TUN interface ``name`` in the calling thread's network namespace.

    It keeps its addresses and routes when nobody holds the descriptor. It belongs to ``owner`` (a uid):
    an unowned one can be attached by anybody. Raises OSError; EBUSY while another process holds it, after
    ``wait`` seconds of trying.
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
    """Whether the calling thread's network namespace has an interface of that name."""
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def boot_id() -> str:
    """This boot's identity: what was recorded under another one is about what is gone."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        return f.read().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie.

    proc(5), /proc/pid/stat, field 22.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Process:
    """A process that cannot be mistaken for a later one of the same number."""

    def __init__(self, pid: int, started: int) -> None:
        """``started`` is what ``start_time`` said when the process was known to be the right one."""
        self.pid = pid
        self.started = started

    def alive(self) -> bool:
        """Whether it still runs."""
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def end(self, patience: float) -> None:
        """SIGTERM, and SIGKILL after ``patience`` seconds; returns when it is gone.

        Nothing if it is gone already.
        """
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if not self.alive():
                    return
                for number, seconds in (
                    (signal.SIGTERM, patience),
                    (signal.SIGKILL, 5.0),
                ):
                    signal.pidfd_send_signal(handle, number)
                    if select.select([handle], [], [], seconds)[0]:
                        return
            finally:
                os.close(handle)


def is_uid_in_use(uid: int) -> bool:
    """Whether a process has that real user ID; one of a container is somebody else's."""
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
    """A detached session leader with no descriptor but those to ``keep``. Its ID.

    Who waits for an end of ours, as the runtime does for that of our output, or for a lock, must not wait for its.
    It does ``become``, and ends; what goes wrong is in ``log``. A child that goes on where we are is there at once;
    another Python would take as long as all the rest.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        # Who wakes a supervisor must not end one that has just begun.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
        for standard in (1, 2):
            os.dup2(os.open(log, append, 0o600), standard)
        _close_all_but(keep)
        become()
    except BaseException as e:  # noqa: BLE001 - it must not go on as a second one of what we are
        os.write(2, f"{type(e).__name__}: {e}\n".encode())
    finally:
        os._exit(1)  # nor unwind what is its parent's


def _close_all_but(keep: tuple[int, ...]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the listing's own is gone by now
                os.close(int(name))


def run_bounded(
    question: Callable[[], bytes], wait: float, longest: int, keep: tuple[int, ...] = ()
) -> bytes | None:
    """What ``question`` gives; None if it takes longer than ``wait`` seconds, or fails.

    It is asked in a detached child that goes on without us, and is ended after ``longest`` seconds: so nothing waits
    for what no time-out reaches, as a resolver that hangs. The descriptors to ``keep`` are open in it for as long as it lives.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def answer() -> None:
        if os.fork():  # its child is nobody's, and no zombie of ours
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(longest)
        os.close(reading)
        said = b"=" + question()
        while said:
            said = said[os.write(writing, said) :]

    try:
        child = detach(answer, keep=(reading, writing, *keep))
        os.close(writing)
        os.waitpid(child, 0)
        return _answer(reading, wait)
    finally:
        os.close(reading)


def _answer(reading: int, wait: float) -> bytes | None:
    """All that is written until the end, behind the mark that there is an answer."""
    import time

    deadline, heard = time.monotonic() + wait, b""
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            return heard[1:] if heard else None
        heard += part
    return None


def seconds_left(deadline: float, least: float = 0.0) -> float:
    """Seconds until then (CLOCK_MONOTONIC), and never fewer than ``least``."""
    import time

    return max(least, deadline - time.monotonic())


def is_udp_port_free(port: int) -> bool:
    """Whether no other socket of the host has the UDP port. Tailscale silently takes another port if this one is busy."""
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
    """From now on neither this process nor what it starts leaves a core dump: there may be a secret in it."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
