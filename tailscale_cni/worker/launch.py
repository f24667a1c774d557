"""Starting and ending the detached processes of one attachment.

Two ways: the main process of a transient unit where PID 1 is systemd, which runs ``tailscale-cni worker run``; a child of
ADD elsewhere, a session leader. Both become the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .. import errors, linux
from ..state import files
from . import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..state.attachments import Attachment

PATIENCE = 5.0
"""Seconds between asking the supervisor to end and ending it."""

ATTACH_SECONDS = 5.0
"""How long the TUN's last holder may take to die."""

OFFER = "start"
"""The named pipe, in ``runDir/<id>``, that a unit's start line waits in."""

DELETED = "deleted"
"""The note, beside it, of a node that is not to come back."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Programs(NamedTuple):
    """The files that a node is made of."""

    artefact: str
    supervisor: str
    worker: str


def start(attachment: Attachment, netns: int, tun: int, programs: Programs, first: bytes) -> None:
    """Start the node's processes, and return at once. They take over ``tun``; the others are as for ``become_supervisor``.

    Raises WorkerFailed.
    """
    try:
        files.make_directory(attachment.run_dir)
        files.make_directory(attachment.worker_dir)
        if attachment.launcher == "session":
            child = linux.detach(
                lambda: become_supervisor(attachment, netns, tun, programs, first),
                f"{attachment.worker_dir}/log",
                keep=(netns, tun),
            )
            _record(attachment, child)
        else:
            _offer(attachment, first)
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.who, reason=e, log=attachment.log) from None
    finally:
        os.close(tun)
    if attachment.launcher == "systemd":
        _start_unit(attachment, programs.artefact)


def _start_unit(attachment: Attachment, executable: str) -> None:
    from . import systemd

    argv = [executable, "worker", "run", "--state-dir", attachment.state_dir, attachment.id]
    loopback = tuple(_loopback(attachment.control_url, attachment.api_url, attachment.proxy_url))
    try:
        systemd.start(attachment.unit, f"Tailscale node of {attachment.who}", argv, loopback=loopback)
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.who, reason=e, log=attachment.log) from None


def _record(attachment: Attachment, pid: int) -> None:
    """Say which process it is, before it is far enough to say so itself: a DEL that comes now ends it."""
    words = (pid, linux.start_time(pid), *_guise(attachment))
    files.write_volatile(f"{attachment.worker_dir}/supervisor", f"{' '.join(map(str, words))}\n".encode())


def _guise(attachment: Attachment) -> tuple[str, str, str]:
    """What a node's processes cannot change while they run."""
    return attachment.key, attachment.hostname, attachment.build


def build(attachment: Attachment) -> str:
    """The build that its processes are of, or were; empty if that is not known."""
    return "".join(_guise_now(attachment)[2:])


def note_configured(attachment: Attachment, asked: int, addresses: Iterable[str]) -> None:
    """Note what was configured, and when the node was asked for it (``Node.asked``): what it said before that has been done."""
    files.write_volatile(f"{attachment.worker_dir}/configured", " ".join((str(asked), *addresses)).encode())


def configured(attachment: Attachment) -> tuple[str, ...]:
    """The addresses that were configured last; none if there were none yet."""
    return tuple(files.read(f"{attachment.worker_dir}/configured").split()[1:])


def was_running(attachment: Attachment) -> bool:
    """Whether the node has been on the tailnet, by its supervisor's word."""
    return os.path.exists(f"{attachment.worker_dir}/was-running")


def was_online(attachment: Attachment) -> bool:
    """Whether the control plane has known the node since this attachment is that one, by its supervisor's word."""
    return os.path.exists(f"{attachment.worker_dir}/was-online")


def talks(attachment: Attachment) -> bool:
    """Whether the node has a session with a peer, or had one when its worker ended: it is in a file of the worker's, after a first line."""
    return files.read(f"{attachment.worker_dir}/peers").count("\n") > 1


def note_deleted(attachment: Attachment) -> None:
    """The node was deleted from the tailnet, and is not to come back as long as its pod is there."""
    files.write_volatile(f"{attachment.worker_dir}/{DELETED}", b"")


def is_deleted(attachment: Attachment) -> bool:
    """Whether that was noted."""
    return os.path.exists(f"{attachment.worker_dir}/{DELETED}")


def was_started(attachment: Attachment) -> bool:
    """Whether an ADD has come so far, in this boot: until then it may be waiting for a key, and nobody else is to start the node."""
    return os.path.isdir(attachment.worker_dir)


def end(attachment: Attachment) -> None:
    """End the node's processes; nothing if there are none."""
    if attachment.launcher == "systemd":
        from . import systemd

        try:
            systemd.stop(attachment.unit)
        except OSError as e:
            raise errors.WorkerFailed(pod=attachment.who, reason=e, log=attachment.log) from None
    supervisor = running(attachment)
    if supervisor:
        supervisor.end(PATIENCE)
    cgroup.remove(attachment.id)


def running(attachment: Attachment) -> linux.Process | None:
    """The supervisor, if it runs."""
    return runs(attachment.worker_dir)


def runs(worker_dir: str) -> linux.Process | None:
    """The supervisor whose node has its socket there, if it runs."""
    try:
        pid, started = map(int, files.read(f"{worker_dir}/supervisor").split()[:2])
    except ValueError:
        return None
    process = linux.Process(pid, started)
    return process if process.alive() else None


def executable(attachment: Attachment) -> str:
    """The file that its supervisor asks, and begins anew with; empty where there is no supervisor at this moment."""
    supervisor = running(attachment)
    words = files.read(f"/proc/{supervisor.pid}/cmdline").split("\0") if supervisor else []
    return words[words.index("--self") + 1] if "--self" in words else ""


def is_as_recorded(attachment: Attachment) -> bool:
    """Whether the processes have the keys and the name that the attachment has, and are of the build that it should be of."""
    return _guise_now(attachment) == _guise(attachment)


def is_same_node(attachment: Attachment) -> bool:
    """Whether they have the keys and the name."""
    return _guise_now(attachment)[:2] == _guise(attachment)[:2]


def _guise_now(attachment: Attachment) -> tuple[str, ...]:
    return tuple(files.read(f"{attachment.worker_dir}/supervisor").split()[2:])


def forget_notes(attachment: Attachment) -> None:
    """The node is about to be another one: nothing is configured for that, and it has not been Running."""
    for note in ("was-running", "was-online", "configured"):
        files.remove(f"{attachment.worker_dir}/{note}")


def supervised(attachment: Attachment) -> bool:
    """Whether somebody looks after the node, or is about to."""
    if running(attachment):
        return True
    if attachment.launcher != "systemd":
        return False
    from . import systemd

    return systemd.is_active(attachment.unit)


def become_supervisor(
    attachment: Attachment, netns: int, tun: int, programs: Programs, first: bytes
) -> NoReturn:
    """Turn this process into the node's supervisor, with the descriptors that docs/architecture.md lists.

    ``netns`` is a descriptor of the pod's namespace, ``tun`` of the node's interface in it; ``first`` is the start line.
    Raises WorkerFailed.
    """
    try:
        if attachment.launcher == "session":
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
                f.write("0")
        descriptors = [tun, _listener(attachment), _peers(attachment), _line(first)]
        inode = os.fstat(netns).st_ino
        os.close(netns)
        os.chdir(attachment.identity_dir)
        _place_proxy(attachment)
        _record(attachment, os.getpid())
        argv = [
            programs.supervisor,
            *_supervisor_flags(attachment, programs.artefact, inode),
            "--",
            programs.worker,
            *_worker_flags(attachment),
        ]
        _place(descriptors)
        os.execve(programs.supervisor, argv, ENVIRONMENT)  # noqa: S606 - no shell: that is the point
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.who, reason=e, log=attachment.log) from None


def _supervisor_flags(attachment: Attachment, executable: str, inode: int) -> list[str]:
    flags = ["--id", attachment.id, "--self", executable, "--state-dir", attachment.state_dir]
    flags += ["--netns", attachment.netns, "--netns-inode", str(inode), "--uid", str(attachment.uid)]
    flags += ["--notes", attachment.worker_dir]
    flags += ["--underlay-pod"] if attachment.underlay == "pod" else []
    if attachment.launcher == "session":
        flags += [f"--group={group}" for group in cgroup.make(attachment.id)]
    flags += ["--ephemeral"] if attachment.ephemeral else []
    flags += ["--attend", *_outside(attachment)] if attachment.kubeconfig or attachment.seeks_name else []
    flags += ["--log", f"{attachment.worker_dir}/log"] if attachment.launcher == "session" else []
    return flags


def _outside(attachment: Attachment) -> list[str]:
    """The cluster's API may be at a loopback address, as on a host of k3s: we ask it there, and the worker cannot."""
    if attachment.launcher != "systemd":
        return []
    from . import systemd

    return [f"--outside={word}" for word in systemd.OUTSIDE]


def _worker_flags(attachment: Attachment) -> list[str]:
    flags = [
        "--hostname",
        attachment.hostname,
        "--control-url",
        attachment.control_url,
        "--port",
        str(attachment.port),
    ]
    flags += ["--tun", attachment.interface]
    flags += ["--ephemeral"] if attachment.ephemeral else []
    flags += ["--port-mapping"] if attachment.port_mapping else []
    flags += ["--peer-routes"] if attachment.routes_per_peer else []
    return flags


def open_tun(attachment: Attachment, netns: int) -> int:
    """Make or attach to the node's TUN, in the pod's namespace. Raises NoTun."""
    try:
        with linux.in_netns(netns):
            return linux.open_tun(attachment.interface, attachment.uid, attachment.mtu, ATTACH_SECONDS)
    except OSError as e:
        raise errors.NoTun(pod=attachment.who, reason=e.strerror) from None


def _listener(attachment: Attachment) -> int:
    files.remove(attachment.socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(attachment.socket)
    os.chmod(attachment.socket, 0o600)
    listener.listen(64)
    return listener.detach()


def _place_proxy(attachment: Attachment) -> None:
    """The proxy that the worker is to use, in a file of the worker's alone: the URL may hold a password. No file without a proxy."""
    path = f"{attachment.identity_dir}/proxy"
    files.remove(path)
    if attachment.proxy_url:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(attachment.proxy_url)
            os.fchown(fd, attachment.uid, attachment.uid)


def _peers(attachment: Attachment) -> int:
    return os.open(
        f"{attachment.worker_dir}/peers", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )


def _line(first: bytes) -> int:
    """A pipe that has the line in it already: a key is far smaller than a pipe."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, first)
    os.close(writing)
    return reading


def _offer(attachment: Attachment, first: bytes) -> None:
    """Hold the start line in a named pipe for the unit's process: systemd-run passes no descriptors on.

    What is in a pipe is on no disk, and is gone with us: ADD is there until the node has an address, or has waited long enough. A
    unit that comes too late, or is started again, finds nothing.
    """
    path = f"{attachment.worker_dir}/{OFFER}"
    files.remove(path)
    os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.write(pipe, first)


def offered(attachment: Attachment) -> bytes:
    """The start line that ADD holds for us; empty if there is none."""
    path = f"{attachment.worker_dir}/{OFFER}"
    try:
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        files.remove(path)
        return os.read(pipe, select.PIPE_BUF)
    except BlockingIOError:
        return b""
    finally:
        os.close(pipe)


def _place(descriptors: list[int]) -> None:
    """Put descriptors at 3, 4, 5, …: first out of one another's way, then where they belong."""
    import fcntl

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in descriptors]
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number, inheritable=True)


def _loopback(*urls: str) -> Iterator[str]:
    """The loopback addresses that a node in the host's namespace needs: the resolver's, a local control plane's."""
    import ipaddress
    from urllib.parse import urlsplit

    candidates = [urlsplit(url).hostname or "" for url in urls]
    candidates += ["127.0.0.1", "::1"] if "localhost" in candidates else []
    with contextlib.suppress(OSError), open("/etc/resolv.conf", encoding="utf-8", errors="replace") as f:
        candidates += [words[1] for words in map(str.split, f) if len(words) > 1 and words[0] == "nameserver"]
    for text in candidates:
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(text).is_loopback:
                yield text
