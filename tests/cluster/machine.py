"""Machines of the cluster suite: a whole host, made of this kernel's namespaces, that ends with its first process.

A machine has its own processes, mounts, network, host name and cgroups. Its root file system is the real one, but
everything written stays in memory. Programs on the machine find the real paths (/opt/cni/bin, /var/lib/kubelet,
/run …) and change nothing outside. This module knows nothing about Kubernetes.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.kit.actor import Actor
from tests.kit.netns import Netns
from tests.kit.process import CLEAN, Failed, run
from tests.kit.wait import wait_until

HOME: Final = {**CLEAN, "HOME": "/root"}
CONTROLLERS: Final = frozenset(("cpu", "cpuset", "hugetlb", "io", "memory", "pids"))
"""The controllers that kubelet and runc need."""
BOOT: Final = Path(__file__).with_name("boot.sh")
JOIN: Final = Path(__file__).with_name("join.sh")


@dataclass(frozen=True)
class Cgroups:
    """The machine's cgroup in every hierarchy of this kernel, version 1 or 2 (cgroups(7))."""

    name: str
    opened: list[tuple[Path, str]] = field(default_factory=list)

    def hierarchies(self) -> Iterator[Path]:
        """Where this kernel's cgroup hierarchies are mounted."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mountpoint, kind = before.split()[4], after.split()[0]
            if kind in ("cgroup", "cgroup2") and mountpoint.startswith("/sys/fs/cgroup"):
                yield Path(mountpoint)

    def make(self) -> None:
        """Create the cgroup in each hierarchy, with a leaf for the machine's own processes."""
        for hierarchy in self.hierarchies():
            self._open_controllers(hierarchy)
            ours = hierarchy / self.name
            ours.mkdir()
            self._fill_cpuset(hierarchy, ours)
            (ours / "host").mkdir()

    def _open_controllers(self, hierarchy: Path) -> None:
        """Version 2: enable the controllers for child cgroups, because kubelet finds only these."""
        if not (hierarchy / "cgroup.controllers").exists():
            return
        handed_down = hierarchy / "cgroup.subtree_control"
        offered = (hierarchy / "cgroup.controllers").read_text().split()
        for name in sorted(CONTROLLERS.intersection(offered).difference(handed_down.read_text().split())):
            handed_down.write_text(f"+{name}")
            self.opened.append((handed_down, name))

    def _fill_cpuset(self, hierarchy: Path, ours: Path) -> None:
        """Version 1: fill the new cpuset, because an empty cpuset cannot hold a process."""
        if (ours / "cgroup.clone_children").exists() and (ours / "cpuset.cpus").exists():
            for name in ("cpuset.cpus", "cpuset.mems"):
                (ours / name).write_text((hierarchy / name).read_text())
            (ours / "cgroup.clone_children").write_text("1")

    def directories(self) -> list[tuple[Path, Path]]:
        """Each hierarchy's mount point, and the machine's cgroup in it."""
        return [(hierarchy, hierarchy / self.name) for hierarchy in self.hierarchies()]

    def clear_root(self) -> None:
        """Move all processes into the leaf, because in version 2 an inner cgroup cannot hold processes."""
        for hierarchy in self.hierarchies():
            ours = hierarchy / self.name
            for pid in (ours / "cgroup.procs").read_text().split():
                (ours / "host" / "cgroup.procs").write_text(pid)

    def remove(self) -> None:
        """Remove the cgroups, in which no process may be left."""
        for hierarchy in self.hierarchies():
            for directory, _, _ in os.walk(hierarchy / self.name, topdown=False):
                Path(directory).rmdir()
        for handed_down, name in self.opened:
            # Another machine that boots at the same time may be about to use this controller, and the kernel refuses only once it does.
            if not any(handed_down.parent.glob("tscni-*")):
                with suppress(OSError):
                    handed_down.write_text(f"-{name}")

    def empty(self) -> bool:
        """Whether no process is left in the cgroups."""
        return not any(
            (Path(directory) / "cgroup.procs").read_text()
            for hierarchy in self.hierarchies()
            for directory, _, _ in os.walk(hierarchy / self.name)
        )


@dataclass
class Daemon:
    """A long-running process on a machine, and its log."""

    name: str
    entry: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        """The process ID outside the machine."""
        return child_of(self.entry)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 20) -> None:
        """End the process and wait until it is dead; kill it if it still runs after TIMEOUT seconds."""
        if self.entry.poll() is not None:
            return
        pid = self.pid
        os.kill(pid, how)
        try:
            self.entry.wait(timeout)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            self.entry.wait()


class Machine(Actor):
    """One machine. DIRECTORY must not exist; it has the same path inside and outside, and holds the logs."""

    def __init__(
        self, name: str, directory: Path, *, packages: Path, init: Path, shared: Sequence[Path] = ()
    ) -> None:
        directory.mkdir(parents=True)
        (directory / "log").mkdir()
        (directory / "scratch").mkdir()
        self.name = name
        self.directory = directory
        self._places = directory / "cgroups"
        with ExitStack() as cleanup:
            self.netns = cleanup.enter_context(Netns(name))
            self._cgroups = Cgroups(self.netns.name)
            cleanup.callback(self._cgroups.remove)
            self._cgroups.make()
            self._entry = self._boot(packages, init, shared)
            cleanup.callback(self._end)
            self._await_boot()
            self._cgroups.clear_root()
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        """End everything on the machine."""
        self._cleanup.close()

    def _boot(self, packages: Path, init: Path, shared: Sequence[Path]) -> subprocess.Popen[str]:
        """Start the first process. It dies with this process, and everything on the machine dies with it."""
        self._places.write_text("".join(f"{ours}\t{place}\n" for place, ours in self._cgroups.directories()))
        seen = [self.directory, *shared]
        boot: list[str | Path] = [
            BOOT,
            self.directory / "scratch",
            packages,
            self.name,
            init,
            self._places,
            *seen,
        ]
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup"]
        with (self.directory / "log" / "boot").open("wb") as log:
            return subprocess.Popen(
                [
                    *(JOIN, self._places, "."),
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *self.netns.within("unshare", *spaces, "--fork", "--kill-child=SIGKILL", "--", *boot),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=CLEAN,
                text=True,
            )

    def _await_boot(self) -> None:
        assert self._entry.stdout is not None
        with self._entry.stdout as output:
            said = output.readline()
        if said != "ready\n":
            raise Failed(f"{self.name} did not boot: {(self.directory / 'log' / 'boot').read_text()}")
        self.pid = child_of(self._entry)

    def _end(self) -> None:
        self._entry.kill()
        self._entry.wait()
        wait_until(self._cgroups.empty, what=f"the end of everything on {self.name}")

    @property
    def root(self) -> Path:
        """The machine's root directory, as a path outside the machine."""
        return Path(f"/proc/{self.pid}/root")

    def within(self, *argv: str | Path) -> list[str | Path]:
        """The command line that runs ARGV on the machine."""
        return [JOIN, self._places, "host", "nsenter", f"--target={self.pid}", "--all", "--", *argv]

    def run(self, *argv: str | Path, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program on the machine, and return what it prints. Raises Failed."""
        return run(self.within(*argv), stdin=stdin, env=HOME, timeout=timeout)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the machine; the new file replaces the old one atomically."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}.fresh")
        fresh.touch(mode=mode)
        fresh.write_text(text)
        fresh.replace(place)

    def files(self, directory: str) -> list[Path]:
        """The entries of a directory on the machine, as paths outside the machine."""
        return sorted((self.root / directory.lstrip("/")).iterdir())

    def cgroups(self) -> set[str]:
        """The paths of all cgroups on the machine, from all hierarchies."""
        return {
            os.path.relpath(directory, ours)
            for _, ours in self._cgroups.directories()
            for directory, _, _ in os.walk(ours)
        }

    def start(self, name: str, *argv: str | Path, env: Mapping[str, str] = {}) -> Daemon:
        """Start a daemon on the machine; it ends with the machine at the latest."""
        log = self.directory / "log" / name
        with log.open("ab") as output:
            entry = subprocess.Popen(
                self.within(*argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**HOME, **env},
                text=True,
            )
        daemon = Daemon(name, entry, log)
        self._cleanup.callback(daemon.stop)
        return daemon

    def processes(self) -> dict[int, str]:
        """Every process on the machine itself, not in a container: process ID outside the machine, command line."""
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        alive = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                if command and (entry / "ns" / "pid").readlink() == own:
                    alive[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
        return alive


def child_of(entry: subprocess.Popen[str]) -> int:
    """The process ID of the only child of a process that entered a PID namespace by forking (nsenter, unshare)."""

    def children() -> list[str]:
        if entry.poll() is not None:
            raise RuntimeError(f"{entry.args!r} ended with status {entry.returncode}")
        return Path(f"/proc/{entry.pid}/task/{entry.pid}/children").read_text().split()

    wait_until(children, 10)
    return int(children()[0])
