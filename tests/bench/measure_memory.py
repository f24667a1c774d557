"""The memory of an enrolled pod: the private pages (Private_Clean and Private_Dirty of smaps_rollup) of its two processes.

Two enrolled pods and a tailscaled in each mode are in one tailnet, of 12 nodes or of 50; the others are nodes that run nowhere. For a
minute some of these come and go, one per second, because every change makes a node rebuild its netmap. They continue while samples are
taken, one every ten seconds. tailscaled grows meanwhile, so the ratio is larger at first (rows m: after half a minute, with fewer changes).
The tailnet of 50 nodes follows, with the same processes. There are two of each, as on any host with more than one pod, so that pages shared
by processes of one program count for none of them. The anchor is the smaller of tailscaled's two modes.

A Go program keeps the memory that it once needed. Every seven seconds the worker checks whether it has grown and has little to do; if so,
it collects garbage and returns memory. It has no memory limit, which would halve its speed (buffers that are not in use would count as
live). After ten seconds at full speed and thirty at rest, its memory must be close to its value before, measured after as much rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import pass_time, wait_until

from .lab import Lab
from .measure_throughput import TRAFFIC, serve
from .rows import Bound, Row

SIZES = (12, 50)
AT_MOST = {12: Bound(12)}
"""Bounds in MB, by the size of the tailnet."""


class Crowd:
    """Nodes that run nowhere, as many as are missing for a tailnet of ``size`` nodes."""

    def __init__(self, control: ControlPlane, size: int) -> None:
        self.control = control
        self.numbers = itertools.count()
        self.there = [self._join() for _ in range(size - len(control.nodes()))]

    def close(self) -> None:
        """Remove all of them from the tailnet."""
        for node in self.there:
            self.control.delete_node(node)

    def churn(self, seconds: int) -> None:
        """Change one node per second: it goes offline, comes back, or is deleted and replaced by another one."""
        for second in range(seconds):
            match second % 3:
                case 0:
                    self.control.appear(self.there[0], online=False)
                case 1:
                    self.control.appear(self.there[0], online=True)
                case _:
                    self.control.delete_node(self.there.pop(0))
                    self.there.append(self._join())
            pass_time(1)

    def _join(self) -> str:
        return self.control.add_stranger(f"stranger-{next(self.numbers)}")


def measure(lab: Lab) -> list[Row]:
    """Measure rows d and e; in a quick run after only a few seconds, and in the smaller tailnet."""
    with ExitStack() as stack:
        host = stack.enter_context(lab.host("memory"))
        peers = [stack.enter_context(lab.peer(f"mode-{u}", userspace=u)) for u in (False, True)]
        pods = [host.start(Pod.enrolled(f"memory-{n}x")) for n in range(2)]
        rows = []
        for size in SIZES[:1] if lab.quick else SIZES:
            crowd = Crowd(lab.control, size)
            rows += at_rest(lab, crowd, size, partial(host.private_memory, pods[0]), peers)
            crowd.close()
        return [*rows, *after_traffic(stack, lab, host, pods[0], peers[0])]


def at_rest(lab: Lab, crowd: Crowd, size: int, ours: Callable[[], int], peers: list[Peer]) -> list[Row]:
    """Measure row d."""
    settle, pause = (9, 2) if lab.quick else (60, 10)
    crowd.churn(settle)
    mine, theirs = [], []
    for _ in range(lab.rounds):
        crowd.churn(pause)
        mine.append(float(ours()))
        theirs.append(float(min(peer.process.private_memory for peer in peers)))
    what = (
        f"private memory, tailnet of {size} nodes, {settle + pause} to {settle + pause * lab.rounds} s later"
    )
    return [
        Row("d", what, "MB", tuple(mine), None, AT_MOST.get(size)),
        Row("d", f"{what}, over tailscaled", "MB", tuple(mine), tuple(theirs), Bound(0.6)),
    ]


def after_traffic(stack: ExitStack, lab: Lab, host: Host, pod: Sandbox, far: Peer) -> list[Row]:
    """Measure row e."""
    busy, rest = (2, 12) if lab.quick else (10, 30)
    end = serve(stack, lab, far, pod.netns, host.addresses(pod)[0])
    pass_time(rest)  # the other nodes have just left
    before = float(host.private_memory(pod))
    after = []
    for turn in range(1 if lab.quick else 5):
        # Try again if nothing arrived, because then there is no memory to return.
        wait_until(partial(end.rate, TRAFFIC[turn % 2], busy), what="traffic")
        pass_time(rest)
        after.append(float(host.private_memory(pod)))
    what = f"private memory {rest} s after {busy} s of TCP, over before"
    return [Row("e", what, "MB", tuple(after), (before,) * len(after), Bound(1.4))]
