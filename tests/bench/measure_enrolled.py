"""A pod that is enrolled waits for its node: from the runtime's exec to the result, with the tailnet address on its interface.

The anchor is what a sidecar does: `tailscaled`, then `tailscale up`, in a namespace on the same control plane, with `iptables` at hand and
its own choice of a firewall, as in Tailscale's container image. Half of it is `iptables`; for orientation there is userspace networking
too, which needs no firewall and no interface. ADD includes the pod's firewall, routes and rules.

The floor is tsnet: linking and starting a Go program of 20 MB, and three exchanges with the control plane, which is on the same machine:
over the Internet those are most of the time, for both sides. What is ours on top is Python: TUN, state on the disk (each record is written
through), starting the processes, and configuring the kernel. The worker starts before Python imports what it configures with, and both
run while the node registers. DEL logs out, so that the control plane forgets the node at once, and removes everything; where the control
plane does not answer, it gives up after 1.5 s.
"""

from __future__ import annotations

import itertools
import time
from contextlib import nullcontext

from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.runtime import Pod, Sandbox

from .anchors import sidecar
from .lab import Lab
from .rows import Bound, Row, interleave

NUMBERS = itertools.count()


def measure(lab: Lab) -> list[Row]:
    """Rows b and j."""
    with lab.host("enrolled") as host:
        enrol(host)  # the first one unpacks the artefact
        add = interleave(
            lab.rounds,
            ours=lambda: enrol(host),
            kernel=lambda: start_sidecar(lab),
            userspace=lambda: start_sidecar(lab, userspace=True),
        )
        what = "ADD of an enrolled pod, over tailscaled and tailscale up"
        rows = [
            Row("b", what, "ms", add["ours"], add["kernel"], Bound(1.0)),
            Row("b", f"{what}, userspace", "ms", add["ours"], add["userspace"], None),
        ]
        up = tuple(unenrol(host) for _ in range(lab.rounds))
        rows.append(Row("j", "DEL of an enrolled pod", "s", up, None, Bound(1.0)))
        down = tuple(unenrol(host, outage=True) for _ in range(lab.rounds))
        rows.append(Row("j", "DEL of an enrolled pod, control plane down", "s", down, None, Bound(2.0)))
        return rows


def enrol(host: Host) -> float:
    """Seconds of our ADD. The pod goes again, and did have its address."""
    sandbox, seconds = add(host)
    if not host.addressed(sandbox):
        raise TimeoutError(f"{sandbox.pod.name} has started without its tailnet address")
    remove(host, sandbox)
    return seconds


def add(host: Host) -> tuple[Sandbox, float]:
    """A pod whose primary interface is there, and the seconds of our ADD."""
    sandbox = host.sandbox(Pod.enrolled(f"pod-{next(NUMBERS)}x"))
    previous = host.runtime.add_primary(sandbox)
    started = time.perf_counter()
    host.runtime.chained("ADD", sandbox, prevResult=previous)
    return sandbox, time.perf_counter() - started


def unenrol(host: Host, *, outage: bool = False) -> float:
    """Seconds of our DEL."""
    sandbox, _ = add(host)
    with host.control.outage() if outage else nullcontext():
        started = time.perf_counter()
        host.runtime.chained("DEL", sandbox)
        seconds = time.perf_counter() - started
    remove(host, sandbox)
    return seconds


def remove(host: Host, sandbox: Sandbox) -> None:
    """The end of a pod. Raises CNIError."""
    host.runtime.delete(sandbox)
    sandbox.netns.close()
    host.sandboxes.remove(sandbox)


def start_sidecar(lab: Lab, *, userspace: bool = False) -> float:
    """Seconds from exec to a node with its address."""
    with Netns("sidecar") as netns:
        lab.wire.plug(netns)
        root = lab.root / f"sidecar-{next(NUMBERS)}"
        with sidecar(lab.control, netns, root, userspace=userspace) as anchor:
            started = time.perf_counter()
            anchor.start()
            return time.perf_counter() - started
