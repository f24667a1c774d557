"""What an enrolled pod holds in memory: the private pages (Private_Clean and Private_Dirty of smaps_rollup) of its two processes.

Two pods of ours and a tailscaled of either mode are on one tailnet, of 12 nodes or of 50; the others are nodes that nobody runs. For a
minute some of these come and go, one a second, because every change makes a node build anew what it knows; they go on while samples are
taken, one every ten seconds. Tailscaled grows meanwhile, so that a ratio is a larger one at first (rows m: after half a minute, with
fewer changes). The tailnet of 50 nodes comes after that, with the same processes. There are two of each, as on any host with more than
one pod, so that what processes of one program share counts for none of them. The anchor is the smaller of tailscaled's two modes.

A Go program that has once been busy keeps what it took. The worker looks every seven seconds whether it has grown and has little to do,
collects, and gives back; it has no memory limit, which would halve its speed (buffers that nobody touches would count as live).
After ten seconds at full speed and thirty at rest it has to be where it was, after as much rest, before.
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
"""MB, by the size of the tailnet."""


class Crowd:
    """Nodes that nobody runs, as many as a tailnet of some size lacks."""

    def __init__(self, control: ControlPlane, size: int) -> None:
        self.control = control
        self.numbers = itertools.count()
        self.there = [self._join() for _ in range(size - len(control.nodes()))]

    def close(self) -> None:
        """All of them leave."""
        for node in self.there:
            self.control.delete_node(node)

    def churn(self, seconds: int) -> None:
        """One a second: goes offline, comes back, or leaves for good with another one in its place."""
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
    """Rows d and e; in QUICK after a few seconds only, and in the smaller tailnet."""
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
    """Row d."""
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
    """Row e."""
    busy, rest = (2, 12) if lab.quick else (10, 30)
    end = serve(stack, lab, far, pod.netns, host.addresses(pod)[0])
    pass_time(rest)  # the other nodes have just gone
    before = float(host.private_memory(pod))
    after = []
    for turn in range(1 if lab.quick else 5):
        # Again if nothing came: there would be nothing to be given back.
        wait_until(partial(end.rate, TRAFFIC[turn % 2], busy), what="traffic")
        pass_time(rest)
        after.append(float(host.private_memory(pod)))
    what = f"private memory {rest} s after {busy} s of TCP, over before"
    return [Row("e", what, "MB", tuple(after), (before,) * len(after), Bound(1.4))]
