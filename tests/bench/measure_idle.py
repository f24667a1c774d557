"""What an enrolled pod costs while nothing happens to it, on a host with forty of them: CPU, of the supervisor and the worker.

A worker that is idle keeps up its poll, its relay and its STUN, and looks at its own memory. The figure is per minute, the median over
the pods.

A pod that starts or stops is a change of the host's interfaces. Tailscale would look at all of them and judge whether its network is
another one. The worker hides the interfaces of pods from it, so that nothing has changed, looks for the same price however many there
are, and does not even hear of those that have nothing but a link-local address: a filter on the socket leaves that in the kernel. The
figure is what comes on top of an idle node's, before and after; one that is less than nothing is noise. The pod that comes and goes is
not enrolled. One that is enrolled is also a change of the tailnet, for all of its nodes, wherever they are: it is in the table for
orientation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import mean

from tests.kit.host import Host
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import pass_time

from .lab import Lab
from .measure_enrolled import remove
from .rows import Bound, Row

NUMBERS = itertools.count()


def measure(lab: Lab) -> list[Row]:
    """Row g; in QUICK with ten pods, for some seconds."""
    size, settle, seconds, guests = (10, 8, 5, 1) if lab.quick else (40, 30, 60, 4)
    with lab.host("idle", readyTimeout="60s") as host:
        pods = [host.start(Pod.enrolled(f"idle-{n}x")) for n in range(size)]
        for pod in pods:
            host.addresses(pod)
        pass_time(settle)
        idle = per_minute(host, pods, seconds)
        plain = [neighbour(host, pods, Pod, guests) for _ in range(lab.rounds)]
        enrolled = [neighbour(host, pods, Pod.enrolled, guests) for _ in range(1 if lab.quick else 5)]
        idle += per_minute(host, pods, seconds)
    rate = mean(idle) / 60
    on_top, of_enrolled = (
        tuple((taken - rate * passed) / guests for taken, passed in samples) for samples in (plain, enrolled)
    )
    what = f"CPU of a neighbour per pod start and stop, {size} pods"
    return [
        Row("g", f"CPU of an idle node a minute, {size} pods", "ms", idle, None, Bound(30)),
        Row("g", what, "ms", on_top, None, Bound(2)),
        Row("g", f"{what}, enrolled", "ms", of_enrolled, None, None),
    ]


def per_minute(host: Host, pods: list[Sandbox], seconds: int) -> tuple[float, ...]:
    """Seconds of CPU that each pod's node takes in a minute."""
    before = [cpu(host, pod) for pod in pods]
    pass_time(seconds)
    return tuple((cpu(host, pod) - b) * 60 / seconds for pod, b in zip(pods, before, strict=True))


def neighbour(
    host: Host, pods: list[Sandbox], make: Callable[[str], Pod], guests: int
) -> tuple[float, float]:
    """Seconds of CPU that a neighbour takes, on average, while pods start and stop; and how many seconds pass.

    A second and a half each: what tailscale does about it comes up to a second late.
    """
    before, started = [cpu(host, pod) for pod in pods], time.monotonic()
    for _ in range(guests):
        sandbox = host.start(make(f"guest-{next(NUMBERS)}x"))
        pass_time(1.5)
        remove(host, sandbox)
        pass_time(1.5)
    taken = mean(cpu(host, pod) - b for pod, b in zip(pods, before, strict=True))
    return taken, time.monotonic() - started


def cpu(host: Host, pod: Sandbox) -> float:
    """Seconds so far, of its supervisor and its worker."""
    return host.supervisor(pod).cpu + host.worker(pod).cpu
