"""The environment of a measurement: one tailnet on this machine, in its own network namespaces."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.wait import pass_time, wait_until
from tests.kit.wire import Wire

from .rows import Row

BATCH = "800ms"
"""The interval in which the control plane batches the nodes' changes, as Headscale does (tuning.batch_change_delay)."""


@dataclass(frozen=True)
class Lab:
    """A wire, a control plane on it, and a directory. Hosts and peers that are created here end with their block."""

    wire: Wire
    control: ControlPlane
    root: Path
    quick: bool

    @property
    def rounds(self) -> int:
        """The minimum number of rounds of a measurement."""
        return 3 if self.quick else 7

    @classmethod
    @contextlib.contextmanager
    def opened(cls, *, quick: bool, batch: str = BATCH) -> Iterator[Lab]:
        """A new, empty tailnet, whose control plane batches the nodes' changes for ``batch``."""
        with tempfile.TemporaryDirectory(prefix="tscni-") as directory:
            root = Path(directory)
            root.chmod(0o711)  # workers do not run as root, but must pass through this directory
            with Wire() as wire, ControlPlane(wire, root / "control", batch=batch) as control:
                yield cls(wire, control, root, quick)

    @contextlib.contextmanager
    def host(self, name: str, **config: Any) -> Iterator[Host]:
        """A host with a default route, as any host has; ``config`` is added to tailscale-cni's conflist entry."""
        with Host(self.wire, self.control, self.root / name, **config) as host:
            host.netns.run("ip", "route", "add", "default", "dev", "eth0")
            yield host

    @contextlib.contextmanager
    def peer(self, name: str, *, userspace: bool = False) -> Iterator[Peer]:
        """A machine with tailscaled, in its own namespace on the wire."""
        with ExitStack() as stack:
            netns = stack.enter_context(Netns(name))
            self.wire.plug(netns)
            yield stack.enter_context(Peer(self.control, netns, self.root / name, name, userspace=userspace))


Measure = Callable[[Lab], list[Row]]
"""A function that takes samples and returns rows of the table. Its module's docstring becomes a section of docs/performance.md."""


def calm_down() -> None:
    """Wait until the machine is nearly idle. Raises TimeoutError after two minutes, because a busy machine gives no useful figures."""
    wait_until(_is_calm, 120, what="the machine to be calm")


def _is_calm() -> bool:
    busy, total = _cpu_ticks()
    pass_time(2)
    more_busy, more = _cpu_ticks()
    return more_busy - busy < 0.1 * (more - total)


def _cpu_ticks() -> tuple[int, int]:
    """The busy ticks and all ticks of all cores (/proc/stat)."""
    user, nice, system, idle, iowait, *others = map(
        int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + sum(others)
    return busy, busy + idle + iowait
