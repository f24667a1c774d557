"""The start of an enrolled pod: from the runtime's exec to the result, with the tailnet address on the pod's interface.

The anchor is a sidecar: `tailscaled`, then `tailscale up`, in a namespace on the same control plane, with `iptables` installed and with its
own choice of a firewall, as in Tailscale's container image. Half of the sidecar's time is `iptables`. For orientation, the table also has
userspace networking, which needs neither firewall nor interface. ADD includes the pod's firewall, routes and rules.

The floor is tsnet: linking and starting a Go program of 20 MB, and three exchanges with the control plane. Here the control plane is on the
same machine; over the Internet, the exchanges are most of the time for both sides. Python adds the TUN device, state on the disk (each
record is written through), starting the processes, and configuring the kernel. The worker starts before Python imports the modules that
configure the kernel, and both run while the node registers. DEL logs out, so that the control plane forgets the node at once, and removes
everything. If the control plane does not answer, DEL gives up after 1.5 s.
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
    """Measure rows b and j."""
    with lab.host("enrolled") as host:
        enrol(host)  # the first ADD unpacks the artefact
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
    """Seconds of tailscale-cni's ADD. The pod is checked for its tailnet address, and deleted."""
    sandbox, seconds = add(host)
    if not host.addressed(sandbox):
        raise TimeoutError(f"{sandbox.pod.name} has started without its tailnet address")
    remove(host, sandbox)
    return seconds


def add(host: Host) -> tuple[Sandbox, float]:
    """Start a pod on the primary CNI, then call tailscale-cni's ADD; return the sandbox and the seconds of that ADD."""
    sandbox = host.sandbox(Pod.enrolled(f"pod-{next(NUMBERS)}x"))
    previous = host.runtime.add_primary(sandbox)
    started = time.perf_counter()
    host.runtime.chained("ADD", sandbox, prevResult=previous)
    return sandbox, time.perf_counter() - started


def unenrol(host: Host, *, outage: bool = False) -> float:
    """Seconds of tailscale-cni's DEL."""
    sandbox, _ = add(host)
    with host.control.outage() if outage else nullcontext():
        started = time.perf_counter()
        host.runtime.chained("DEL", sandbox)
        seconds = time.perf_counter() - started
    remove(host, sandbox)
    return seconds


def remove(host: Host, sandbox: Sandbox) -> None:
    """Delete a pod and its namespace. Raises CNIError."""
    host.runtime.delete(sandbox)
    sandbox.netns.close()
    host.sandboxes.remove(sandbox)


def start_sidecar(lab: Lab, *, userspace: bool = False) -> float:
    """Seconds from exec until a sidecar's node has its address."""
    with Netns("sidecar") as netns:
        lab.wire.plug(netns)
        root = lab.root / f"sidecar-{next(NUMBERS)}"
        with sidecar(lab.control, netns, root, userspace=userspace) as anchor:
            started = time.perf_counter()
            anchor.start()
            return time.perf_counter() - started
