"""Hosts as containers with their own disk, processes and network, with systemd as PID 1 or without.

The *machine* runs the tests. The *holder* is a process with its own mount and PID namespaces. The disk, an overlay
of a Debian root file system in memory, is mounted only there. Every process of the host descends from the holder:
when the holder ends, the kernel ends them all. A boot is one run of systemd-nspawn. Program and loader come from
the Debian root file system, so nothing has to be installed on the machine. Between two boots the disk stays. /run,
the processes, the network and the boot ID are new, as after a reboot.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from testinfra.backend.base import CommandResult
from testinfra.backend.local import LocalBackend
from testinfra.host import Host as Infra

from tests.kit.actor import Actor
from tests.kit.netns import Netns
from tests.kit.process import CLEAN, Daemon, Failed, Process, attempt, run
from tests.kit.wait import wait_until

from .rootfs import debian

CGROUPS = Path("/sys/fs/cgroup")
V1_CONTROLLERS = ("systemd", "unified", "memory", "pids", "cpu")
"""Cgroup hierarchies in which a host gets its own cgroup. Used if the machine has no unified tree."""

HOLD = """
set -e
mount -t tmpfs -o mode=0755 disk "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay disk -o "lowerdir=$2,upperdir=$1/changes,workdir=$1/work" "$1/root"
mount -t tmpfs -o mode=0755 run /run
echo holding
exec cat
"""
LEAVE_ROOT = 'mkdir "$1/init" && for pid in 0 $(cat "$1/cgroup.procs"); do echo "$pid" > "$1/init/cgroup.procs"; done; true'
"""A container's root cgroup can delegate controllers only while no process is in it. k3s moves processes away too."""
UNIFIED = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs"; shift; done; shift; exec "$@"'


class HostNetns(Netns):
    """The network namespace of a running host. It has a name so that it can be plugged into a wire."""

    def __init__(self, pid: int) -> None:
        self.name = f"tscni-{secrets.token_hex(4)}-host"
        run(["ip", "netns", "attach", self.name, str(pid)])


class InsideBackend(LocalBackend):  # type: ignore[misc]  # testinfra has no types
    """testinfra's local backend, which runs its commands inside a host."""

    NAME = "inside"

    def __init__(self, host: BootedHost) -> None:
        super().__init__()
        self.host = host

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run one shell command inside the host."""
        return self.run_local(shlex.join(self.host.within("sh", "-c", self.get_command(command, *args))))


class BootedHost(Actor):
    """A host that runs once it is constructed. After ``close`` nothing of the host is left on the machine."""

    BOOT: ClassVar[tuple[str, ...]]
    """The arguments that tell systemd-nspawn what to start."""
    FIRST: ClassVar[tuple[str, int]]
    """Name, and process ID inside the host, of the first process. Once that process exists, the container is set up."""

    ENVIRON: ClassVar[dict[str, str]] = {}
    """Extra environment variables of systemd-nspawn."""

    def __init__(self, folder: Path) -> None:
        self.name = f"tscni-{secrets.token_hex(4)}"
        self._folder = folder
        self._root = debian()
        self._holder: Daemon | None = None
        self._nspawn: Daemon | None = None
        self._first: Process | None = None
        self._netns: HostNetns | None = None
        try:
            self._hold()
            self.boot()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # The host's life cycle

    def boot(self) -> None:
        """Boot the host and return when it is up. The host has no network until it is plugged into a wire."""
        for cgroup in self._cgroups:
            cgroup.mkdir()
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self._disk / 'root'}",
            f"--machine={self.name}",
            f"--hostname={self.name}",
        ]
        nspawn += [
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--capability=all",
            "--system-call-filter=bpf",
            "--console=pipe",
        ]
        nspawn += ["--resolv-conf=off", "--timezone=off", "--link-journal=no", *self.BOOT]
        into = ["nsenter", f"--target={self._container_parent.pid}", "--mount", "--pid", "--"]
        self._nspawn = Daemon(
            [*self._joined(self._cgroups), *into, *self._from_debian(nspawn)],
            log=self._folder / "console",
            env=CLEAN | self.ENVIRON,
        )
        self._first = wait_until(
            self._find_first, what=f"{self.name}'s first process; see {self._folder / 'console'}"
        )
        self._netns = HostNetns(self._first.pid)
        self._settle()

    def cut_power(self) -> None:
        """Cut the host's power. Everything in memory is lost: processes, network namespaces, /run."""
        if self._netns:
            self._netns.close()
            self._netns = None
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, 9)
        if self._nspawn:
            self._nspawn.close()
        wait_until(
            lambda: all(map(_remove_cgroup, self._cgroups)), what=f"the end of {self.name}'s processes"
        )

    def reboot(self) -> None:
        """Cut the power and boot again. The disk stays, everything else is new."""
        self.cut_power()
        self.boot()

    def close(self) -> None:
        """Remove the host: its processes, network, cgroups and disk."""
        self.cut_power()
        if self._holder:
            container = self._container_parent
            self._holder.stdin.close()
            wait_until(lambda: not container.alive, what=f"the end of {self.name}'s holder")
            self._holder.close()
            self._holder = None
        wait_until(lambda: all(map(_remove_cgroup, self._cgroups)), what=f"the end of {self.name}'s cgroups")

    def _hold(self) -> None:
        self._disk.mkdir(parents=True)
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = Daemon(
            [*own, "sh", "-c", HOLD, "sh", self._disk, self._root], log=self._folder / "holder"
        )
        self._holder.first_line()

    def _settle(self) -> None:
        """Wait until the host is up. ``boot`` calls this once the first process exists."""

    def _find_first(self) -> Process | None:
        assert self._nspawn
        if not Process.of(self._nspawn.pid):
            self._nspawn.first_line()  # raises Failed with the console's output
        name, pid = self.FIRST
        for process in self.processes():
            status = process.status
            if status.get("Name") == name and status.get("NSpid", "").split()[2:] == [str(pid)]:
                return process
        return None

    @property
    def _container_parent(self) -> Process:
        """The holder's child process, which is in the holder's namespaces."""
        assert self._holder
        return Process(self._holder.pid, "").children[0]

    @property
    def _disk(self) -> Path:
        return self._folder / "disk"

    @cached_property
    def _cgroups(self) -> list[Path]:
        trees = (
            [CGROUPS]
            if (CGROUPS / "cgroup.controllers").exists()
            else [CGROUPS / name for name in V1_CONTROLLERS]
        )
        return [tree / self.name for tree in trees if tree.is_dir()]

    def _from_debian(self, argv: list[str]) -> list[str]:
        """The command line that runs a Debian program on the machine, with Debian's own libraries."""
        libraries = next((self._root / "usr/lib").glob("*-linux-gnu"))
        loader = next(libraries.glob("ld-linux-*.so.*"))
        program, *arguments = argv
        return [
            str(loader),
            "--library-path",
            f"{libraries}:{libraries}/systemd",
            f"{self._root}/usr/bin/{program}",
            *arguments,
        ]

    @staticmethod
    def _joined(cgroups: list[Path]) -> list[str]:
        return ["sh", "-c", JOIN, "sh", *map(str, cgroups), "--"]

    # The inside of the host

    @property
    def netns(self) -> Netns:
        """The host's network namespace since the last boot."""
        assert self._netns
        return self._netns

    @property
    def pid(self) -> int:
        """The process ID, on the machine, of the host's first process."""
        assert self._first
        return self._first.pid

    def within(self, *argv: str | Path, group: Path | None = None) -> list[str]:
        """A command line for the machine that runs ``argv`` inside the host, in a runtime's cgroup or in ``group``."""
        groups = [*self._runtime_cgroups(), *([group] if group else [])]
        return [*self._joined(groups), "nsenter", f"--target={self.pid}", *NAMESPACES, "--", *map(str, argv)]

    def run(
        self, *argv: str | Path, stdin: str = "", timeout: float = 60.0, group: Path | None = None
    ) -> str:
        """Run a program inside the host and return what it prints. Raises Failed."""
        return run(self.within(*argv, group=group), stdin=stdin, timeout=timeout)

    def attempt(
        self, *argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program that may fail inside the host."""
        return attempt(self.within(*argv), stdin=stdin, env=CLEAN | (env or {}), timeout=timeout)

    @cached_property
    def infra(self) -> Infra:
        """testinfra's view of the host: services, files, interfaces."""
        return Infra(InsideBackend(self))

    def file(self, path: str | Path) -> Any:
        """testinfra's object for the file at ``path`` inside the host."""
        return self.infra.file(str(path))

    def service(self, name: str) -> Any:
        """testinfra's object for a service of the host."""
        return self.infra.service(name)

    def put(self, source: Path, path: str, mode: str = "755") -> None:
        """Copy a file from the machine into the host."""
        self.write(path, source.read_bytes(), mode)

    def write(self, path: str, content: bytes | str, mode: str = "644") -> None:
        """Write a file inside the host. Missing parent directories are created."""
        data = content.encode() if isinstance(content, str) else content
        done = self.attempt("install", "-D", f"--mode={mode}", "/dev/stdin", path, stdin=data)
        if done.returncode != 0:
            raise Failed(done.stderr.decode())

    def tree(self, *tops: str) -> set[str]:
        """The paths of all files and directories at and below ``tops`` inside the host. Missing ones are skipped."""
        return set(
            self.run("sh", "-c", 'for top; do [ ! -e "$top" ] || find "$top"; done', "sh", *tops).splitlines()
        )

    def processes(self) -> list[Process]:
        """All processes of the host, including systemd-nspawn."""
        pids = {pid for cgroup in self._cgroups for pid in _pids(cgroup)}
        return [process for pid in pids if (process := Process.of(pid))]

    def cgroups(self) -> list[Path]:
        """The host's cgroups in all hierarchies."""
        return [Path(folder) for cgroup in self._cgroups for folder, _, _ in os.walk(cgroup)]

    def called(self, program: str) -> list[Process]:
        """The processes inside the host whose executable has the name ``program``."""
        return [
            process
            for process in self.processes()
            if Path(process.link("exe").removesuffix(" (deleted)")).name == program
        ]

    def _runtime_cgroups(self) -> list[Path]:
        """The cgroups of the host's first process, in which programs of the host start."""
        paths = dict(
            line.split(":", 2)[1:] for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        )
        if len(self._cgroups) == 1:
            return [CGROUPS / paths[""].lstrip("/")]
        names = {"systemd": "name=systemd", "unified": ""}
        return [
            tree.parent / paths[names.get(tree.parent.name, tree.parent.name)].lstrip("/")
            for tree in self._cgroups
        ]


class SystemdHost(BootedHost):
    """A host that systemd booted."""

    BOOT = ("--boot",)
    FIRST = ("systemd", 1)
    ENVIRON: ClassVar[dict[str, str]] = UNIFIED
    """One cgroup tree, as on a current host. If the machine has several trees, the controllers stay on the machine."""

    def _settle(self) -> None:
        """Wait until the boot has ended. Raises Failed if a unit failed."""
        state = wait_until(self._end_of_boot, what=f"{self.name} to be up")
        if state != "running":
            raise Failed(f"{self.name} is {state}: {self.run('systemctl', '--failed', '--no-pager')}")

    def _end_of_boot(self) -> str | None:
        state = self.attempt("systemctl", "is-system-running").stdout.decode().strip()
        return state if state in ("running", "degraded", "maintenance") else None

    def show(self, unit: str) -> dict[str, str]:
        """All properties of a unit, from ``systemctl show``."""
        lines = self.run("systemctl", "show", "--all", unit).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def units(self, pattern: str) -> list[str]:
        """The names of the loaded units that match ``pattern``, including failed ones."""
        return [
            line.split()[0]
            for line in self.run(
                "systemctl", "list-units", "--all", "--plain", "--no-legend", pattern
            ).splitlines()
        ]

    def journal(self, unit: str) -> str:
        """A unit's messages in the journal."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")


class PlainHost(BootedHost):
    """A host whose PID 1 is not systemd and only reaps, as in Alpine or in the k3s image."""

    BOOT = ("--as-pid2", "sleep", "infinity")
    FIRST = ("sleep", 2)

    def _settle(self) -> None:
        """Let root write to the cgroups, as on a real host. If there are several trees, systemd-nspawn withholds the controllers'."""
        for line in Path(f"/proc/{self.pid}/mounts").read_text().splitlines():
            _, path, kind, *_ = line.split()
            if kind == "cgroup2":
                self.run("sh", "-c", LEAVE_ROOT, "sh", path)
            elif kind == "cgroup" and Path(path).name in V1_CONTROLLERS:
                self.run("mount", "-o", "remount,bind,rw", path)


class UnifiedPlainHost(PlainHost):
    """A host without systemd, with one cgroup tree."""

    ENVIRON: ClassVar[dict[str, str]] = UNIFIED


def _pids(cgroup: Path) -> Iterator[int]:
    """The IDs of the processes in a cgroup and below it."""
    for folder, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                yield from map(int, Path(folder, "cgroup.procs").read_text().split())


def _remove_cgroup(cgroup: Path) -> bool:
    """Remove a cgroup and those below it. Returns False while they still contain processes."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
