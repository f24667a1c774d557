"""A control group for a node that no systemd looks after: it is neither counted nor ended with the runtime.

Best effort: where no group can be made, the node stays in the runtime's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT = "tailscale-cni"
REMOVE_TIMEOUT = 5.0
"""Seconds that all groups of a node may take to become empty. On an overloaded host this takes more than one second."""

CONTROLLERS = ("memory", "pids")
LIMITS = {"memory.max": "512M", "memory.limit_in_bytes": "512M", "pids.max": "256"}


def make(name: str) -> list[str]:
    """Make a group of that name, in every hierarchy that lets us. The supervisor moves itself to them, and its worker."""
    groups = []
    for root in _hierarchies():
        with contextlib.suppress(OSError):
            group = f"{root}/{PARENT}/{name}"
            os.makedirs(group, exist_ok=True)
            for above in (root, f"{root}/{PARENT}"):
                _hand_down(above)
            _limit(group)
            groups.append(group)
    return groups


def leave() -> None:
    """Move this process out of its group, so that it can be removed.

    To the root, or where PID 1 is: a container's root takes no process once its groups have controllers.
    """
    for root in _hierarchies():
        for home in ("", _unified_group_of(1)):
            with contextlib.suppress(OSError):
                _write(f"{root}{home}/cgroup.procs", str(os.getpid()))
                break


def remove(name: str) -> None:
    """Remove the group of processes that have ended; and the parent after the last one.

    What a worker has forked to outlive it ends here: its user ID will be another node's. A process leaves its
    group a moment after it can be waited for, so this takes some tries.
    """
    deadline = time.monotonic() + REMOVE_TIMEOUT
    for root in _hierarchies():
        group = f"{root}/{PARENT}/{name}"
        while not _removed(group) and time.monotonic() < deadline:
            _kill_all(group)
            time.sleep(0.005)
        _removed(f"{root}/{PARENT}")


def _removed(group: str) -> bool:
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _kill_all(group: str) -> None:
    with contextlib.suppress(OSError), open(f"{group}/cgroup.procs", encoding="ascii") as f:
        for pid in {int(line) for line in f} - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _hierarchies() -> Iterator[str]:
    """Where cgroup file systems are mounted: proc_pid_mounts(5).

    cpuset wants to be told its CPUs, and is of no use here.
    """
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as f:
        for line in f:
            _, directory, kind, options, *_ = line.split(" ")
            if kind == "cgroup2" or (kind == "cgroup" and "cpuset" not in options.split(",")):
                yield directory


def _unified_group_of(pid: int) -> str:
    """A process's group below the root of cgroup v2: cgroups(7)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as f:
        return next((line[len("0::") :].strip() for line in f if line.startswith("0::")), "")
    return ""


def _hand_down(group: str) -> None:
    """Let the groups below have limits; cgroup v1 has no such file, and needs none."""
    for controller in CONTROLLERS:
        with contextlib.suppress(OSError):
            _write(f"{group}/cgroup.subtree_control", f"+{controller}")


def _limit(group: str) -> None:
    for name, value in LIMITS.items():
        with contextlib.suppress(OSError):
            _write(f"{group}/{name}", value)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
