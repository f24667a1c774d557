"""Many pods at once, and many pods on one host.

Fifty pods that start at once share the machine's cores, so CPU time decides. Python needs most of a tenth of a second per pod. A worker
needs half of that if it starts alone, and more if forty-nine others become its peers meanwhile. The worker watches only the part of this
news that it needs (the news of peers as JSON, for both ends of a bus within one process, was more than half of the CPU time), and ADD waits
for a notification of its address instead of polling. tailscaled pays for `iptables` instead. The calls take locks per pod, and no lock
around slow operations. On a full host, ADD also pays for operations that look at all attachments: the search for a free UID and port, and
the repair that is part of ADD and reads two short files per running attachment. The pod's neighbours learn of it, if they may see it, from
the control plane, which batches such news for 0.8 s, as Headscale does.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from statistics import median

from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import POLL_SECONDS, wait_until

from .anchors import sidecar
from .lab import Lab, calm_down
from .measure_enrolled import enrol, remove
from .rows import Bound, Row, interleave

NUMBERS = itertools.count()
SOME = 8
"""The number of calls at a time when their time is not measured."""
PEOPLE_SEE_PODS = """{
    "tagOwners": {"tag:k8s-pod": [], "tag:person": []},
    "acls": [{"action": "accept", "src": ["tag:person"], "dst": ["tag:k8s-pod:*"]}],
}"""


def measure(lab: Lab) -> list[Row]:
    """Measure rows f and h."""
    with lab.host("crowd", readyTimeout="60s") as host:
        enrol(host)  # the first ADD unpacks the artefact
        return [*at_once(lab, host), *one_more(lab, host)]


def at_once(lab: Lab, host: Host) -> list[Row]:
    """Measure row f."""
    size = 10 if lab.quick else 50
    failures: list[float] = []
    seconds = interleave(
        1 if lab.quick else 5,
        ours=lambda: ours_at_once(host, size, failures),
        anchor=lambda: anchors_at_once(lab, size),
    )
    what = f"{size} pods at once, the last one Running"
    return [
        Row(
            "f", f"{what}, over {size} tailscaled and up", "s", seconds["ours"], seconds["anchor"], Bound(0.6)
        ),
        Row("f", f"{what}: failures", "", tuple(failures), None, Bound(0)),
    ]


def ours_at_once(host: Host, size: int, failures: list[float]) -> float:
    """Seconds until all pods are Running; the number of those that failed is appended to ``failures``.

    Whether a node is Running is read from a file of its supervisor, because polling the nodes' LocalAPI would be most of the CPU time. The
    nodes themselves are queried afterwards.
    """
    made = [(sandbox, host.runtime.add_primary(sandbox)) for sandbox in pods(host, size)]

    def add(sandbox: Sandbox, previous: dict[str, object]) -> None:
        with suppress(CNIError, TimeoutError):
            host.runtime.chained("ADD", sandbox, prevResult=previous)
            there = host.run_dir / host.id(sandbox) / "was-running"
            wait_until(there.exists, 30, what="a node that runs", poll=POLL_SECONDS)

    started = time.perf_counter()
    with ThreadPoolExecutor(size) as pool:
        list(pool.map(lambda pair: add(*pair), made))
    seconds = time.perf_counter() - started
    failures.append(sum(not host.running(sandbox) for sandbox, _ in made))
    remove_all(host, [sandbox for sandbox, _ in made])
    return seconds


def anchors_at_once(lab: Lab, size: int) -> float:
    """Seconds until ``size`` sidecars are up."""
    with ExitStack() as stack:
        # Entered first and left last, because a daemon ends with the thread that started it.
        pool = stack.enter_context(ThreadPoolExecutor(size))
        sidecars = []
        for _ in range(size):
            netns = stack.enter_context(Netns("sidecar"))
            lab.wire.plug(netns)
            root = lab.root / f"crowd-{next(NUMBERS)}"
            sidecars.append(stack.enter_context(sidecar(lab.control, netns, root)))
        started = time.perf_counter()
        list(pool.map(lambda one: one.start(), sidecars))
        return time.perf_counter() - started


def one_more(lab: Lab, host: Host) -> list[Row]:
    """Measure row h with pods that do not see each other, as in docs/acl.md, and with nodes that all see each other, as in a new tailnet.

    Half of the anchor's samples are taken before the other pods start and half after they end, because a machine's speed varies.
    """
    size, rounds = (20, lab.rounds) if lab.quick else (200, 2 * lab.rounds)
    policy = lab.root / "policy.hujson"
    policy.write_text(PEOPLE_SEE_PODS, encoding="utf-8")
    with lab.control.policy(policy):
        first = adds(lab, host, rounds - rounds // 2)
        crowd = pods(host, size - 1)
        with ThreadPoolExecutor(SOME) as pool:
            list(pool.map(host.runtime.add, crowd))
        wait_until(lambda: see(host, crowd, 0), what="pods that run, and see nobody")
        apart = adds(lab, host, rounds)
    wait_until(lambda: see(host, crowd, size - 2), what="pods that see one another")
    together = adds(lab, host, rounds)
    status = []
    for _ in range(lab.rounds):
        started = time.perf_counter()
        host.command("status", "--state-dir", str(host.state_dir))
        status.append(time.perf_counter() - started)
    with lab.control.policy(policy):
        remove_all(host, crowd)
        first += adds(lab, host, rounds // 2)
    what = f"ADD of the {size}th pod, over the first"
    # No round of the other rows is at the time of a round of the first pod.
    anchor = (median(first),) * rounds
    return [
        Row("h", "ADD of the first pod", "ms", first, None, None),
        Row("h", f"{what}, all of which see one another", "ms", together, anchor, Bound(1.2)),
        Row("h", f"{what}, none of which sees another", "ms", apart, anchor, Bound(1.2)),
        Row("h", f"status with {size - 1} pods", "s", tuple(status), None, Bound(1.0)),
    ]


def adds(lab: Lab, host: Host, rounds: int) -> tuple[float, ...]:
    """Seconds of ADD of one more pod, in each round on an idle machine, because the end of the previous pod wakes its neighbours, too."""
    samples = []
    for _ in range(rounds):
        if not lab.quick:
            calm_down()
        samples.append(enrol(host))
    return tuple(samples)


def pods(host: Host, count: int) -> list[Sandbox]:
    """Sandboxes of pods that are annotated, but not added yet."""
    return [host.sandbox(Pod.enrolled(f"crowd-{next(NUMBERS)}x")) for _ in range(count)]


def see(host: Host, crowd: list[Sandbox], peers: int) -> bool:
    """Whether all pods are Running, and the last one sees ``peers`` other nodes."""
    known = host.node(crowd[-1]).get("Peer") or {}
    return len(known) == peers and all(host.running(sandbox) for sandbox in crowd)


def remove_all(host: Host, sandboxes: list[Sandbox]) -> None:
    """Delete pods, some at a time."""
    with ThreadPoolExecutor(SOME) as pool:
        list(pool.map(partial(remove, host), sandboxes))
