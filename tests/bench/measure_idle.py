"""The CPU time of an idle enrolled pod, of its supervisor and worker, on a host with forty such pods.

An idle worker keeps up its poll, its relay and its STUN, and checks its own memory. The figure is per minute, the median of the pods.

A pod that starts or stops changes the host's interfaces. Tailscale would then look at all of them and decide whether its network has
changed. The worker hides the interfaces of pods from Tailscale, so that nothing has changed, and the look costs the same for any number of
pods. It does not even receive events of interfaces that have only a link-local address, because a filter on the socket drops them in the
kernel. The figure is the time in addition to that of an idle node, before and after; a negative figure is noise. The pod that starts and
stops is not enrolled. An enrolled pod is also a change of the tailnet, for all of its nodes on all hosts; it is in the table for
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
    """Measure row g; in a quick run with ten pods, for some seconds."""
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
    """The CPU time of each pod's node, in seconds per minute."""
    before = [cpu(host, pod) for pod in pods]
    pass_time(seconds)
    return tuple((cpu(host, pod) - b) * 60 / seconds for pod, b in zip(pods, before, strict=True))


def neighbour(
    host: Host, pods: list[Sandbox], make: Callable[[str], Pod], guests: int
) -> tuple[float, float]:
    """A neighbour's mean CPU time while ``guests`` pods start and stop, and the time that passes, both in seconds.

    It waits 1.5 s after each start and stop, because tailscale reacts up to a second late.
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
    """The CPU time of a pod's supervisor and worker so far, in seconds."""
    return host.supervisor(pod).cpu + host.worker(pod).cpu
