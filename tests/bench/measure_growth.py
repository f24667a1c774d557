"""The cost of a node as its tailnet grows: its memory, and its CPU time for each other node that joins and leaves.

Every node knows all nodes that it may talk to. So memory grows with the tailnet, and each change costs CPU time on all of its nodes, as
with any Tailscale client. A policy that lets pods see few nodes (docs/acl.md) has the effect of a small tailnet, because the control plane
sends a node only those nodes that it may talk to. The product's side is the pod's two processes; the anchor is a tailscaled with userspace
networking. There are two of each, so that pages shared by processes of one program count for none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.kit.process import Process
from tests.kit.runtime import Pod
from tests.kit.wait import pass_time

from .lab import Lab
from .measure_memory import Crowd
from .rows import Row

SIZES = (12, 100, 500)
CHANGES = 10
"""The number of nodes that join and leave, one after the other."""


@dataclass(frozen=True)
class Contestant:
    """A node and its processes, which are looked up each time, because the worker may have been restarted."""

    processes: Callable[[], list[Process]]

    @property
    def memory(self) -> float:
        """The private memory of the processes in bytes."""
        return float(sum(process.private_memory for process in self.processes()))

    @property
    def cpu(self) -> float:
        """The CPU time of the processes so far, in seconds."""
        return sum(process.cpu for process in self.processes())


def measure(lab: Lab) -> list[Row]:
    """Measure rows m; in a quick run only for the smallest tailnet."""
    with ExitStack() as stack:
        host = stack.enter_context(lab.host("growth"))
        peer, _ = [stack.enter_context(lab.peer(f"anchor-{n}", userspace=True)) for n in range(2)]
        pod, _ = pods = [host.start(Pod.enrolled(f"growth-{n}x")) for n in range(2)]
        for one in pods:
            host.addresses(one)
        ours = Contestant(lambda: [host.supervisor(pod), host.worker(pod)])
        anchor = Contestant(lambda: [peer.process])
        return [row for size in SIZES[: 1 if lab.quick else 3] for row in at(lab, size, ours, anchor)]


def at(lab: Lab, size: int, ours: Contestant, anchor: Contestant) -> list[Row]:
    """Measure the rows of one size of the tailnet."""
    crowd = Crowd(lab.control, size)
    pass_time(3 if lab.quick else 20)  # the nodes collect their garbage
    before = ours.cpu, anchor.cpu
    for n in range(CHANGES):
        node = lab.control.add_stranger(f"passer-by-{size}-{n}")
        pass_time(0.5)
        lab.control.delete_node(node)
        pass_time(0.5)
    mine, theirs = (ours.cpu - before[0]) / CHANGES, (anchor.cpu - before[1]) / CHANGES
    memory, its = ours.memory, anchor.memory
    crowd.close()
    holds = f"private memory, tailnet of {size} nodes"
    takes = f"CPU of a node per node that joins and leaves, tailnet of {size}"
    return [
        Row("m", holds, "MB", (memory,), None, None),
        Row("m", f"{holds}, over tailscaled", "MB", (memory,), (its,), None),
        Row("m", takes, "ms", (mine,), None, None),
        Row("m", f"{takes}, over tailscaled", "ms", (mine,), (theirs,), None),
    ]
