"""The death of a worker is a short gap: the interface, its addresses and the pod's connections outlive the worker.

The gap is the time that the other end of an open TCP connection waits for an answer if it sends at the moment of the kill. The supervisor
restarts a worker at once if the worker has been well for ten seconds. The rest of the gap is one start of the worker, its netmap from the
control plane, and a path to each peer that was active before: a handshake without a path is lost, and WireGuard tries again after five
seconds. A peer answers the new worker only when the control plane has sent it the new worker's disco key. If the control plane batches its
news, as Headscale does for 0.8 s, this is the longest part: what is left of the 0.8 s when the worker dies. So the kills are spread over
that time. In an upgrade the supervisor is restarted as well, with the programs of another build. There the gap is the longest wait for an
answer while `tailscale-cni upgrade` runs and the connection is never silent.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.kit import tools, traffic
from tests.kit.host import Host
from tests.kit.process import Failed
from tests.kit.runtime import Pod, Sandbox
from tests.kit.wait import pass_time

from .lab import BATCH, Lab
from .rows import Bound, Row

AT_MOST = Bound(1.0)
WELL = 11.0
"""Seconds after which the supervisor regards a worker as well, plus one."""
GATHERED = float(BATCH.removesuffix("ms")) / 1000
"""The interval in seconds in which the control plane batches news."""
BUILDS = itertools.count(1)
AT_ONCE = "0s"
"""The interval of a control plane that does not batch news."""


def measure(lab: Lab) -> list[Row]:
    """Measure row i in a tailnet whose nodes learn of changes at once, and in one where they do every 0.8 s, as with Headscale."""
    if lab.quick:
        return gaps(lab, BATCH)
    with Lab.opened(quick=False, batch=AT_ONCE) as prompt:
        return [*gaps(prompt, AT_ONCE), *gaps(lab, BATCH)]


def gaps(lab: Lab, batch: str) -> list[Row]:
    """Measure the gaps with either side speaking first."""
    with lab.peer("far") as far, lab.host("restart") as host:
        pod = host.start(Pod.enrolled("restart"))
        here, there = host.addresses(pod)[0], far.addresses[0]
        far.ping(here)  # afterwards the peer knows the pod
        rows = []
        with (
            traffic.echo_server(pod.netns, lab.root / "echo-pod"),
            traffic.echo_server(far.netns, lab.root / "echo-far"),
            traffic.Conversation(far.netns, lab.root / "talk-far", here) as of_peer,
            traffic.Conversation(pod.netns, lab.root / "talk-pod", there) as of_pod,
        ):
            for speaker, conversation in (("the peer", of_peer), ("the pod", of_pod)):
                seconds = tuple(gap(host, pod, conversation, pause) for pause in pauses(lab))
                what = f"gap of a TCP stream, {speaker} speaks, news {news(batch)}"
                rows.append(Row("i", what, "s", seconds, None, AT_MOST))
            for speaker, conversation in (("the peer", of_peer), ("the pod", of_pod)):
                seconds = tuple(upgrade_gap(host, conversation, pause) for pause in phases(lab))
                what = f"gap of a TCP stream at an upgrade, {speaker} speaks, news {news(batch)}"
                rows.append(Row("i", what, "s", seconds, None, AT_MOST))
        return rows


def news(batch: str) -> str:
    """The interval as it is named in the table."""
    return "at once" if batch == AT_ONCE else f"every {batch}"


def pauses(lab: Lab) -> Iterator[float]:
    """Seconds before each kill. They vary, because otherwise all kills would have the same distance from the control plane's last news."""
    if lab.quick:
        yield 1
        return
    for phase in phases(lab):
        yield WELL + phase


def phases(lab: Lab) -> Iterator[float]:
    """Offsets in seconds, spread over the interval in which news is batched; only one in a quick run."""
    for turn in range(1 if lab.quick else lab.rounds):
        yield turn * GATHERED / lab.rounds


def gap(host: Host, pod: Sandbox, conversation: traffic.Conversation, pause: float) -> float:
    """Seconds from the kill to the answer, of a worker that has run for ``pause`` seconds."""
    pass_time(pause)
    worker = host.worker(pod)
    ask(conversation, "before")
    killed = time.perf_counter()
    worker.kill()
    ask(conversation, "after")
    return time.perf_counter() - killed


def upgrade_gap(host: Host, conversation: traffic.Conversation, pause: float) -> float:
    """The longest wait for an answer while the host's node is upgraded to another build, in seconds."""
    host.runtime.replace_plugin(tools.other_build(next(BUILDS)))
    host.command("status", "--state-dir", str(host.state_dir))  # unpacks the programs, as ``install`` does
    pass_time(pause)
    gaps = [0.0]
    with ThreadPoolExecutor(1) as pool:
        upgrading = pool.submit(host.command, "upgrade", "--state-dir", str(host.state_dir))
        while not upgrading.done():
            asked = time.perf_counter()
            ask(conversation, "still there?")
            gaps.append(time.perf_counter() - asked)
        upgrading.result()
    return max(gaps)


def ask(conversation: traffic.Conversation, line: str) -> None:
    """Send a line, and wait until it comes back. Raises Failed if the connection has ended."""
    conversation.say(line)
    if (heard := conversation.heard_within(30)) != line:
        raise Failed(f"{heard!r} came back for {line!r}: the connection has not outlived the worker")
