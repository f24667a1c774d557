"""Processes that the tests start, and what /proc says of those that the product starts."""

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
"""The environment of the programs that tests start: nothing of the environment of whoever runs them."""


class Failed(Exception):
    """A program ended with a status other than 0. The message has the command line and what it printed."""


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
    """Return the beginning of a command line that sees ``source`` at ``target``, in its own mount namespace.

    Unmounting outside has an effect inside, because the namespaces below /run/netns would otherwise stay alive.
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
                start_new_session=True,  # a signal to the tests' process group is for the tests: they end it in order
            )

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """What it reads."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints."""
        assert self._process.stdout is not None
        return self._process.stdout

    def first_line(self) -> str:
        """Wait for its first line, which says that it is ready. Raises Failed if it ends instead."""
        if line := self.stdout.readline():
            return line.decode()
        self.close()
        raise Failed(f"{self._process.args!r} ended: {self.log.read_text(errors='replace')[-2000:]}")

    def close(self) -> None:
        """Send SIGTERM, after five seconds SIGKILL, and return when it is dead."""
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
    """A process that the tests did not start. Its start time tells it from a later process with the same ID."""

    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process with that ID; None if there is none, or if it is a zombie."""
        stat = _stat(pid)
        return cls(pid, stat[19]) if stat and stat[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    @property
    def argv(self) -> list[str]:
        """Its command line."""
        return _read(self.pid, "cmdline").split("\0")[:-1]

    @property
    def environ(self) -> str:
        """Its environment."""
        return _read(self.pid, "environ")

    @property
    def parent(self) -> int:
        """The ID of its parent; 0 if it has ended."""
        stat = _stat(self.pid)
        return int(stat[1]) if stat else 0

    @property
    def children(self) -> list[Process]:
        """The processes that it started."""
        return [p for p in processes() if p.parent == self.pid]

    @property
    def status(self) -> dict[str, str]:
        """``/proc/PID/status``."""
        pairs = (line.partition(":") for line in _read(self.pid, "status").splitlines())
        return {key: value.strip() for key, _, value in pairs}

    @property
    def private_memory(self) -> int:
        """The bytes of memory that it does not share: proc(5), ``smaps_rollup``."""
        pairs = (line.split() for line in _read(self.pid, "smaps_rollup").splitlines()[1:])
        return sum(int(size) for key, size, _ in pairs if key in ("Private_Clean:", "Private_Dirty:")) * 1024

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used, to the microsecond: the clock of clock_getcpuclockid(3), which has no name in Python."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def link(self, name: str) -> str:
        """Where ``/proc/PID/<name>`` points to: exe, cwd, ns/net; empty when it is gone."""
        try:
            return str(Path(f"/proc/{self.pid}/{name}").readlink())
        except OSError:
            return ""

    def descriptors(self) -> dict[int, str]:
        """Its open descriptors and what each refers to; empty if it has ended."""
        directory = Path(f"/proc/{self.pid}/fd")
        try:
            numbers = [int(path.name) for path in directory.iterdir()]
        except OSError:
            return {}
        return {number: self.link(f"fd/{number}") for number in numbers}

    def kill(self) -> None:
        """Send SIGKILL, and return when it is dead."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        # The bench measures this, so poll often.
        wait_until(lambda: not self.alive, what=f"the death of process {self.pid}", poll=0.001)


def processes(where: Callable[[Process], bool] = lambda _: True) -> list[Process]:
    """The processes of this machine for which ``where`` is true."""
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
    """``/proc/PID/stat`` from its third field on (state, ppid, …): proc_pid_stat(5)."""
    return _read(pid, "stat").rpartition(")")[2].split()
