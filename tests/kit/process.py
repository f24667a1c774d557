"""Processes that the tests start, and information from /proc about those that the product starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .actor import Actor
from .wait import wait_until

Argv = Sequence[str | Path]

CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""The environment of the programs that the tests start; nothing of the tests' own environment is in it."""


class Failed(Exception):
    """A program ended with a status other than 0. The message contains the command line and the output."""


def run(
    argv: Argv,
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> str:
    """Run a program, and return what it prints. Raises Failed if it fails, TimeoutExpired after ``timeout`` seconds."""
    done = attempt(argv, stdin=stdin.encode(), env=env, timeout=timeout)
    if done.returncode != 0:
        words = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise Failed(f"{' '.join(map(str, argv))}: exit status {done.returncode}: {words}")
    return done.stdout.decode()


def attempt(
    argv: Argv,
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that may fail."""
    return subprocess.run(
        argv,
        input=stdin,
        env=env or CLEAN,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def with_bind(source: Path, target: Path) -> list[str | Path]:
    """The beginning of a command line that runs in its own mount namespace, where ``source`` is at ``target``.

    Unmounting outside also unmounts inside; otherwise the namespaces below /run/netns would stay alive.
    """
    bind = 'mount --bind "$0" "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", bind, source, target]


class Daemon(Actor):
    """A program that runs until it is stopped, and is killed if the process of the tests dies.

    Standard error goes to ``log``; standard output and input are pipes.
    """

    def __init__(self, argv: Argv, *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env or CLEAN,
                start_new_session=True,  # signals to the tests' process group are for the tests, which stop their daemons in order
            )

    @property
    def pid(self) -> int:
        """The process ID of the daemon."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The daemon's standard input."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The daemon's standard output."""
        assert self._process.stdout is not None
        return self._process.stdout

    def first_line(self) -> str:
        """Wait for the daemon's first line, which reports that it is ready. Raises Failed if the daemon ends instead."""
        if line := self.stdout.readline():
            return line.decode()
        self.close()
        raise Failed(f"{self._process.args!r} ended: {self.log.read_text(errors='replace')[-2000:]}")

    def close(self) -> None:
        """Send SIGTERM, after five seconds SIGKILL, and wait until the daemon is dead."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


@dataclass(frozen=True)
class Process:
    """A process that the tests did not start. The start time distinguishes it from a later process with the same ID."""

    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process with that ID; None if there is none, or if it is a zombie."""
        stat = _stat(pid)
        return cls(pid, stat[19]) if stat and stat[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return Process.of(self.pid) == self

    @property
    def argv(self) -> list[str]:
        """The process's command line."""
        return _read(self.pid, "cmdline").split("\0")[:-1]

    @property
    def environ(self) -> str:
        """The process's environment."""
        return _read(self.pid, "environ")

    @property
    def parent(self) -> int:
        """The parent's process ID; 0 if the process has ended."""
        stat = _stat(self.pid)
        return int(stat[1]) if stat else 0

    @property
    def children(self) -> list[Process]:
        """The processes whose parent is this process."""
        return [p for p in processes() if p.parent == self.pid]

    @property
    def status(self) -> dict[str, str]:
        """The fields of ``/proc/PID/status``."""
        pairs = (line.partition(":") for line in _read(self.pid, "status").splitlines())
        return {key: value.strip() for key, _, value in pairs}

    @property
    def private_memory(self) -> int:
        """The bytes of memory that the process does not share: proc(5), ``smaps_rollup``."""
        pairs = (line.split() for line in _read(self.pid, "smaps_rollup").splitlines()[1:])
        return sum(int(size) for key, size, _ in pairs if key in ("Private_Clean:", "Private_Dirty:")) * 1024

    @property
    def cpu(self) -> float:
        """Seconds of CPU time used, to the microsecond, from the clock of clock_getcpuclockid(3), for which Python has no function."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def link(self, name: str) -> str:
        """The target of the link ``/proc/PID/<name>``, such as exe, cwd, ns/net; empty if the process is gone."""
        try:
            return str(Path(f"/proc/{self.pid}/{name}").readlink())
        except OSError:
            return ""

    def descriptors(self) -> dict[int, str]:
        """The process's open descriptors and what each refers to; empty if the process has ended."""
        directory = Path(f"/proc/{self.pid}/fd")
        try:
            numbers = [int(path.name) for path in directory.iterdir()]
        except OSError:
            return {}
        return {number: self.link(f"fd/{number}") for number in numbers}

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is dead."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        # Poll often, because the bench measures this time.
        wait_until(lambda: not self.alive, what=f"the death of process {self.pid}", poll=0.001)


def processes(where: Callable[[Process], bool] = lambda _: True) -> list[Process]:
    """All processes of this machine for which ``where`` is true."""
    return [p for p in _all() if where(p)]


def _all() -> Iterator[Process]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and (process := Process.of(int(path.name))):
            yield process


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on (state, ppid, …): proc_pid_stat(5)."""
    return _read(pid, "stat").rpartition(")")[2].split()
