"""Where everything is measured: one tailnet on this machine, in namespaces of its own, for the whole run."""

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
"""How often nodes hear of one another's changes: as Headscale tells them (tuning.batch_change_delay)."""


@dataclass(frozen=True)
class Lab:
    """A wire, a control plane on it, and room for more; what is made here ends with the block that asked for it."""

    wire: Wire
    control: ControlPlane
    root: Path
    quick: bool

    @property
    def rounds(self) -> int:
        """How often things are measured, at the least."""
        return 3 if self.quick else 7

    @classmethod
    @contextlib.contextmanager
    def opened(cls, *, quick: bool, batch: str = BATCH) -> Iterator[Lab]:
        """A new tailnet with nobody in it, whose nodes hear of one another once in ``batch``."""
        with tempfile.TemporaryDirectory(prefix="tscni-") as directory:
            root = Path(directory)
            root.chmod(0o711)  # workers are no root, and pass through
            with Wire() as wire, ControlPlane(wire, root / "control", batch=batch) as control:
                yield cls(wire, control, root, quick)

    @contextlib.contextmanager
    def host(self, name: str, **config: Any) -> Iterator[Host]:
        """A machine that runs pods, with a default route as any has; ``config`` is for our plugin's conflist entry."""
        with Host(self.wire, self.control, self.root / name, **config) as host:
            host.netns.run("ip", "route", "add", "default", "dev", "eth0")
            yield host

    @contextlib.contextmanager
    def peer(self, name: str, *, userspace: bool = False) -> Iterator[Peer]:
        """A machine with tailscaled, in a namespace of its own on the wire."""
        with ExitStack() as stack:
            netns = stack.enter_context(Netns(name))
            self.wire.plug(netns)
            yield stack.enter_context(Peer(self.control, netns, self.root / name, name, userspace=userspace))


Measure = Callable[[Lab], list[Row]]
"""Takes samples, and gives lines of the table. Its module's docstring is what docs/performance.md says of them."""


def calm_down() -> None:
    """Return once the machine does next to nothing; after two minutes that it does not, there is no measuring here: TimeoutError."""
    wait_until(_is_calm, 120, what="the machine to be calm")


def _is_calm() -> bool:
    busy, total = _cpu_ticks()
    pass_time(2)
    more_busy, more = _cpu_ticks()
    return more_busy - busy < 0.1 * (more - total)


def _cpu_ticks() -> tuple[int, int]:
    """Busy ones and all, of all cores (/proc/stat)."""
    user, nice, system, idle, iowait, *others = map(
        int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + sum(others)
    return busy, busy + idle + iowait
