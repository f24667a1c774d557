"""Start and end the processes of one attachment's node: the supervisor, and the worker that it starts.

Where PID 1 is systemd, a transient unit runs ``tailscale-cni worker run``, which becomes the supervisor. Elsewhere a child of ADD leads a
session of its own and becomes the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .. import errors, linux
from ..build import artefact
from ..state import files
from . import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..state.attachments import Attachment

STOP_TIMEOUT = 5.0
"""Seconds between SIGTERM and SIGKILL to the supervisor."""

ATTACH_TIMEOUT = 5.0
"""Seconds that the last process that holds the TUN interface may take to exit."""

START_LINE_PIPE = "start"
"""The named pipe, in ``runDir/<id>``, from which a unit's process reads its start line."""

PROXY_FILE = "proxy"
"""The file with the worker's proxy, in the directory of the node's keys."""

DELETED = "deleted"
"""The note, in the same directory, that the node was deleted from the tailnet and must not register again."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Programs(NamedTuple):
    """The paths of the programs that a node consists of."""

    artefact: str
    supervisor: str
    worker: str


def start(
    attachment: Attachment,
    netns: int,
    tun: int,
    programs: Programs,
    start_line: bytes,
    held: contextlib.ExitStack,
) -> None:
    """Start the node's processes, without waiting for them. ``netns``, ``tun`` and ``start_line`` are as for ``become_supervisor``.

    Closes ``tun``. A unit reads its start line from a named pipe, which stays open until ``held`` is closed. Raises WorkerFailed.
    """
    try:
        files.make_directory(attachment.run_dir)
        files.make_directory(attachment.worker_dir)
        if attachment.launcher == "session":
            child = linux.detach(
                lambda: become_supervisor(attachment, netns, tun, programs, start_line),
                f"{attachment.worker_dir}/log",
                keep=(netns, tun),
            )
            _record(attachment, child)
        else:
            held.callback(os.close, _offer_start_line(attachment, start_line))
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.display_name, reason=e, log=attachment.log) from None
    finally:
        os.close(tun)
    if attachment.launcher == "systemd":
        _start_unit(attachment, programs.artefact)


def _start_unit(attachment: Attachment, executable: str) -> None:
    from . import systemd

    argv = [executable, "worker", "run", "--state-dir", attachment.state_dir, attachment.id]
    urls = (attachment.control_url, attachment.api_url, attachment.proxy_url)
    loopback = tuple(systemd.loopback_addresses(*urls))
    try:
        systemd.start(
            attachment.unit, f"Tailscale node of {attachment.display_name}", argv, loopback=loopback
        )
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.display_name, reason=e, log=attachment.log) from None


def _record(attachment: Attachment, pid: int) -> None:
    """Record the supervisor's process before it can do so itself, so that a DEL at this moment finds and ends it."""
    words = (pid, linux.start_time(pid), *_recorded_identity(attachment))
    files.write_volatile(f"{attachment.worker_dir}/supervisor", f"{' '.join(map(str, words))}\n".encode())


def _recorded_identity(attachment: Attachment) -> tuple[str, str, str]:
    """The node's key, hostname and build as the attachment has them. Running processes cannot change them."""
    return attachment.key, attachment.hostname, attachment.build


def build(attachment: Attachment) -> str:
    """The build of the node's processes, also after they have ended; empty if it is not known."""
    return "".join(_running_identity(attachment)[2:])


def note_configured(attachment: Attachment, asked: int, addresses: Iterable[str]) -> None:
    """Record which addresses were configured, and when the node's status was requested (``Node.asked``, nanoseconds).

    Every notification of the node from before ``asked`` is thereby handled.
    """
    files.write_volatile(f"{attachment.worker_dir}/configured-by", f"{asked} {artefact.build_id()}".encode())
    files.write_volatile(f"{attachment.worker_dir}/configured", " ".join((str(asked), *addresses)).encode())


def is_configured_by_this_build(attachment: Attachment) -> bool:
    """Whether this build configured the pod's network. After an upgrade, that is so from the node's next ``sync`` on."""
    asked = files.read(f"{attachment.worker_dir}/configured").split()[
        :1
    ]  # a build that knows no such note changes this one
    return files.read(f"{attachment.worker_dir}/configured-by").split() == [*asked, artefact.build_id()]


def configured(attachment: Attachment) -> tuple[str, ...]:
    """The addresses that were configured last; empty before the first."""
    return tuple(files.read(f"{attachment.worker_dir}/configured").split()[1:])


def was_running(attachment: Attachment) -> bool:
    """Whether the node has been connected to the tailnet, as its supervisor noted."""
    return os.path.exists(f"{attachment.worker_dir}/was-running")


def was_online(attachment: Attachment) -> bool:
    """Whether the node has been online with its current keys, as its supervisor noted."""
    return os.path.exists(f"{attachment.worker_dir}/was-online")


def has_active_peers(attachment: Attachment) -> bool:
    """Whether the node has a session with a peer, or had one when its worker ended. The worker writes them to a file with a header line."""
    return files.read(f"{attachment.worker_dir}/peers").count("\n") > 1


def note_deleted(attachment: Attachment) -> None:
    """Note that the node was deleted from the tailnet and must not register again while its pod exists."""
    files.write_volatile(f"{attachment.worker_dir}/{DELETED}", b"")


def is_deleted(attachment: Attachment) -> bool:
    """Whether ``note_deleted`` was called for the attachment."""
    return os.path.exists(f"{attachment.worker_dir}/{DELETED}")


def was_started(attachment: Attachment) -> bool:
    """Whether an ADD has started the node in this boot. Until then ADD may be waiting for an auth key, and only ADD may start the node."""
    return os.path.isdir(attachment.worker_dir)


def end(attachment: Attachment) -> None:
    """End the node's processes, if there are any. Raises WorkerFailed."""
    if attachment.launcher == "systemd":
        from . import systemd

        try:
            systemd.stop(attachment.unit)
        except OSError as e:
            raise errors.WorkerFailed(pod=attachment.display_name, reason=e, log=attachment.log) from None
    supervisor = supervisor_of(attachment)
    if supervisor:
        supervisor.end(STOP_TIMEOUT)
    cgroup.remove(attachment.id)


def supervisor_of(attachment: Attachment) -> linux.Process | None:
    """The attachment's supervisor; None if it does not run."""
    return supervisor_at(attachment.worker_dir)


def supervisor_at(worker_dir: str) -> linux.Process | None:
    """The supervisor that is recorded in ``worker_dir``; None if it does not run."""
    try:
        pid, started = map(int, files.read(f"{worker_dir}/supervisor").split()[:2])
    except ValueError:
        return None
    process = linux.Process(pid, started)
    return process if process.alive() else None


def executable(attachment: Attachment) -> str:
    """The artefact that the supervisor calls and re-executes itself with; empty if no supervisor runs."""
    supervisor = supervisor_of(attachment)
    words = files.read(f"/proc/{supervisor.pid}/cmdline").split("\0") if supervisor else []
    return words[words.index("--self") + 1] if "--self" in words else ""


def matches_record(attachment: Attachment) -> bool:
    """Whether the node's processes have the key, hostname and build that the attachment records."""
    return _running_identity(attachment) == _recorded_identity(attachment)


def is_same_node(attachment: Attachment) -> bool:
    """Whether the node's processes have the key and hostname that the attachment records."""
    return _running_identity(attachment)[:2] == _recorded_identity(attachment)[:2]


def _running_identity(attachment: Attachment) -> tuple[str, ...]:
    """The key, hostname and build that the node's processes were started with; empty if that is not known."""
    return tuple(files.read(f"{attachment.worker_dir}/supervisor").split()[2:])


def forget_notes(attachment: Attachment) -> None:
    """Remove the notes about the node, because the attachment is about to get another node."""
    for note in ("was-running", "was-online", "configured", "configured-by"):
        files.remove(f"{attachment.worker_dir}/{note}")


def supervised(attachment: Attachment) -> bool:
    """Whether a supervisor runs, or systemd is about to start one."""
    if supervisor_of(attachment):
        return True
    if attachment.launcher != "systemd":
        return False
    from . import systemd

    return systemd.is_active(attachment.unit)


def become_supervisor(
    attachment: Attachment, netns: int, tun: int, programs: Programs, start_line: bytes
) -> NoReturn:
    """Replace this process with the node's supervisor, which gets the descriptors that docs/internals.md lists.

    ``netns`` is a descriptor of the pod's network namespace, ``tun`` one of the node's interface in it. Raises WorkerFailed.
    """
    try:
        if attachment.launcher == "session":
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
                f.write("0")
        descriptors = [tun, _open_listener(attachment), _open_peers(attachment), _start_line_pipe(start_line)]
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
        _renumber(descriptors)
        os.execve(programs.supervisor, argv, ENVIRONMENT)  # noqa: S606 - without a shell on purpose
    except OSError as e:
        raise errors.WorkerFailed(pod=attachment.display_name, reason=e, log=attachment.log) from None


def _supervisor_flags(attachment: Attachment, executable: str, inode: int) -> list[str]:
    flags = ["--id", attachment.id, "--self", executable, "--state-dir", attachment.state_dir]
    flags += ["--netns", attachment.netns, "--netns-inode", str(inode), "--uid", str(attachment.uid)]
    flags += ["--notes", attachment.worker_dir]
    flags += ["--underlay-pod"] if attachment.underlay == "pod" else []
    if attachment.launcher == "session":
        flags += [f"--group={group}" for group in cgroup.make(attachment.id)]
    flags += ["--ephemeral"] if attachment.ephemeral else []
    flags += (
        ["--attend", *_outside_flags(attachment)] if attachment.kubeconfig or attachment.seeks_name else []
    )
    flags += ["--log", f"{attachment.worker_dir}/log"] if attachment.launcher == "session" else []
    return flags


def _outside_flags(attachment: Attachment) -> list[str]:
    """The command prefix for tasks that ask the cluster's API. It may listen on loopback, as with k3s, which the unit cannot reach."""
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
    """Create or attach to the node's TUN interface in the pod's network namespace. Raises NoTun."""
    try:
        with linux.in_netns(netns):
            return linux.open_tun(attachment.interface, attachment.uid, attachment.mtu, ATTACH_TIMEOUT)
    except OSError as e:
        raise errors.NoTun(pod=attachment.display_name, reason=e.strerror) from None


def _open_listener(attachment: Attachment) -> int:
    """The listening socket of the node's LocalAPI."""
    files.remove(attachment.socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(attachment.socket)
    os.chmod(attachment.socket, 0o600)
    listener.listen(64)
    return listener.detach()


def remove_proxy(attachment: Attachment) -> None:
    """Remove the worker's proxy, or whatever the worker has put in its place: no password outlives its use."""
    files.clear(f"{attachment.identity_dir}/{PROXY_FILE}")


def _place_proxy(attachment: Attachment) -> None:
    """Write the worker's proxy to a file that only the worker can read, because the URL may have a password. No file without a proxy."""
    remove_proxy(attachment)
    path = f"{attachment.identity_dir}/{PROXY_FILE}"
    if attachment.proxy_url:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(attachment.proxy_url)
            os.fchown(fd, attachment.uid, attachment.uid)


def _open_peers(attachment: Attachment) -> int:
    """The file that the worker writes its sessions with peers to."""
    return os.open(
        f"{attachment.worker_dir}/peers", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )


def _start_line_pipe(start_line: bytes) -> int:
    """The reading end of a pipe that contains the start line. A pipe's buffer is far larger than the line."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, start_line)
    os.close(writing)
    return reading


def _offer_start_line(attachment: Attachment, start_line: bytes) -> int:
    """Write the start line into a named pipe for the unit's process, because systemd-run passes no descriptors on.

    Returns the descriptor that keeps the line readable. A pipe's content is never on a disk, and is gone when the last descriptor is
    closed. A unit that starts later, or again, therefore finds no start line.
    """
    path = f"{attachment.worker_dir}/{START_LINE_PIPE}"
    files.remove(path)
    os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.write(pipe, start_line)
    return pipe


def take_start_line(attachment: Attachment) -> bytes:
    """Read the start line that ADD offers to this unit, and remove the named pipe. Empty if there is none."""
    path = f"{attachment.worker_dir}/{START_LINE_PIPE}"
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


def _renumber(descriptors: list[int]) -> None:
    """Move descriptors to 3, 4, 5, …, by way of high numbers, so that none overwrites another."""
    import fcntl

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in descriptors]
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number, inheritable=True)
