"""A worker that is killed is not missed: the interface, its addresses and the pod's connections outlive it.

The gap is what the other end of an open TCP connection waits for its answer, when it speaks at the moment of the kill. The supervisor
starts a worker that has been well for ten seconds again at once; the rest is one start of the worker, its map from the control plane,
and a path to each peer that was active before: a handshake that is made before there is one is lost, and WireGuard tries again after
five seconds. A peer answers the new worker only when the control plane has told it of the new worker's disco key: where that gathers
its news, as Headscale does for 0.8 s, this is the longest part, and as long as what is left of that time when the worker dies: the
kills are spread over it. In an upgrade the supervisor begins anew as well, with the programs of another build: the gap is the longest
that one waits for an answer while `tailscale-cni upgrade` runs and the connection is never silent.
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
"""Seconds after which the supervisor takes a worker as one that has been well, and one more."""
GATHERED = float(BATCH.removesuffix("ms")) / 1000
"""Seconds in which news are gathered."""
BUILDS = itertools.count(1)
AT_ONCE = "0s"
"""Where they are not."""


def measure(lab: Lab) -> list[Row]:
    """Row i: of a tailnet whose nodes hear of one another at once, and of one where they do every 0.8 s, as with Headscale."""
    if lab.quick:
        return gaps(lab, BATCH)
    with Lab.opened(quick=False, batch=AT_ONCE) as prompt:
        return [*gaps(prompt, AT_ONCE), *gaps(lab, BATCH)]


def gaps(lab: Lab, batch: str) -> list[Row]:
    """With either side speaking first."""
    with lab.peer("far") as far, lab.host("restart") as host:
        pod = host.start(Pod.enrolled("restart"))
        here, there = host.addresses(pod)[0], far.addresses[0]
        far.ping(here)  # it has heard of the pod by then
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
    """As the table says it."""
    return "at once" if batch == AT_ONCE else f"every {batch}"


def pauses(lab: Lab) -> Iterator[float]:
    """Seconds before each kill: an answer comes with the control plane's news, and all kills would be as far from them."""
    if lab.quick:
        yield 1
        return
    for phase in phases(lab):
        yield WELL + phase


def phases(lab: Lab) -> Iterator[float]:
    """Seconds, over the time in which news are gathered; one in QUICK."""
    for turn in range(1 if lab.quick else lab.rounds):
        yield turn * GATHERED / lab.rounds


def gap(host: Host, pod: Sandbox, conversation: traffic.Conversation, pause: float) -> float:
    """Seconds from the kill to the answer, of a worker that has been well for that long."""
    pass_time(pause)
    worker = host.worker(pod)
    ask(conversation, "before")
    killed = time.perf_counter()
    worker.kill()
    ask(conversation, "after")
    return time.perf_counter() - killed


def upgrade_gap(host: Host, conversation: traffic.Conversation, pause: float) -> float:
    """The longest that one waits for an answer while the host's node gets the programs of another build, in seconds."""
    host.runtime.replace_plugin(tools.other_build(next(BUILDS)))
    host.command("status", "--state-dir", str(host.state_dir))  # unpacks them, as ``install`` does
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
    """Say something, and have it come back. Raises Failed where the connection has ended."""
    conversation.say(line)
    if (heard := conversation.heard_within(30)) != line:
        raise Failed(f"{heard!r} came back for {line!r}: the connection has not outlived the worker")
