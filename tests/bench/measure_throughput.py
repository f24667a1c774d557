"""The throughput of `ts0`: TCP with one stream and with eight, and UDP with packets of 1200 bytes, in both directions.

The other end is always the same machine with tailscaled and a kernel interface; only the measured end changes. It is a pod on one host with
the same primary CNI: an enrolled pod, a pod with a sidecar that has a kernel interface, or a pod with a sidecar that has userspace
networking. The sidecars are started as in row b. The pods take turns in every round, so each ratio is of one round. The program is iperf3
in the pod. For orientation, the table also has a machine on which tailscaled runs outside of any pod, with its firewall switched off.

All use the same code of WireGuard, on the same two cores that the other end needs as well. Throughput can be lost at two edges. Without the
TUN's offloads it is a third. The UDP sockets need buffers as large as tailscaled's; the supervisor sets their size, because a worker has no
capability and would get what `net.core.rmem_max` allows. Throughput can be gained on the path: a worker's packets leave from the host,
while a sidecar's pass the pod's interface, the bridge, and the host's masquerading. Userspace networking has a second TCP between the two
ends.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.process import Failed
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

from .anchors import Sidecar, sidecar
from .lab import Lab
from .rows import Bound, Row, interleave

PORT = "5201"


@dataclass(frozen=True)
class Traffic:
    """The options of an iperf3 test, and whether the measured end (``sends``) or the other end sends."""

    name: str
    options: tuple[str, ...]
    sends: bool

    def __str__(self) -> str:
        return f"{self.name}, {'from' if self.sends else 'to'} the pod"


KINDS = {
    "TCP, 1 stream": (),
    "TCP, 8 streams": ("--parallel=8",),
    "UDP, 1200 bytes": ("--udp", "--bandwidth=0", "--length=1200"),
}
NAMES = {"kernel": "kernel TUN", "userspace": "userspace", "machine": "kernel TUN, no pod"}
BOUNDS = {"kernel": Bound(1.0, at_least=True, quartile=0.95), "userspace": Bound(1.25, at_least=True)}
TRAFFIC = [Traffic(name, options, sends) for name, options in KINDS.items() for sends in (True, False)]


@dataclass(frozen=True)
class Contestant:
    """A measured end: an iperf3 server at a tailnet address. The other end is always the client, in both directions."""

    far: Peer
    address: str

    def rate(self, traffic: Traffic, seconds: int) -> float:
        """Bits per second that arrive; 0 if a test began but nothing arrived. Raises TimeoutError if no test begins."""
        report = wait_until(
            lambda: self._begun(traffic, seconds), 60, what=f"a measurement of {traffic}, {self.address}"
        )
        return float(
            report["end"].get("sum_received", {}).get("bits_per_second") or 0
        )  # null where nothing came

    def _begun(self, traffic: Traffic, seconds: int) -> dict[str, Any] | None:
        """The report of one iperf3 test; None if the test did not begin.

        The server may be busy with the previous test, or may wait forever for the first datagram, which was lost.
        """
        way = ["--reverse"] if traffic.sends else []
        client = ["iperf3", "--client", self.address, "--port", PORT, "--json", f"--time={seconds}"]
        done = self.far.netns.attempt("timeout", str(seconds + 10), *client, *traffic.options, *way)
        report: dict[str, Any] = json.loads(done.stdout or b"{}")
        if "test_start" not in report.get("start", {}):
            return None
        if "sum" in report["end"] and "sum_received" not in report["end"]:
            raise Failed("this iperf3 does not say how many datagrams have arrived: 3.10 and later do")
        return report

    def is_near(self) -> bool:
        """Whether the path to the measured end is direct."""
        try:
            return "via DERP" not in self.far.ping(self.address)
        except Failed:
            return False


def measure(lab: Lab) -> list[Row]:
    """Measure row c; in a quick run without the eight streams."""
    with ExitStack() as stack:
        host = stack.enter_context(lab.host("throughput"))
        far = stack.enter_context(lab.peer("far"))
        pod = host.start(Pod.enrolled("throughput"))
        kernel = stack.enter_context(pod_with_sidecar(lab, host, "kernel"))
        userspace = stack.enter_context(pod_with_sidecar(lab, host, "userspace", userspace=True))
        addresses = {
            "ours": (pod.netns, host.addresses(pod)[0]),
            "kernel": (kernel.netns, kernel.address),
            "userspace": (userspace.netns, userspace.address),
        }
        if not lab.quick:
            machine = stack.enter_context(lab.peer("machine"))
            addresses["machine"] = (machine.netns, machine.addresses[0])
        ends = {name: serve(stack, lab, far, *where) for name, where in addresses.items()}
        kinds = [t for t in TRAFFIC if not lab.quick or "8" not in t.name]
        return [row for traffic in kinds for row in compare(lab, traffic, ends)]


@contextlib.contextmanager
def pod_with_sidecar(lab: Lab, host: Host, name: str, *, userspace: bool = False) -> Iterator[Sidecar]:
    """A sidecar that shares the namespace of a pod that is not enrolled."""
    pod = host.start(Pod(name))
    with sidecar(lab.control, pod.netns, lab.root / name, userspace=userspace) as anchor:
        anchor.start()
        yield anchor


def serve(stack: ExitStack, lab: Lab, far: Peer, netns: Netns, address: str) -> Contestant:
    """Start the iperf3 server of a measured end, and wait until it listens and has a direct path."""
    # The reports of its tests would fill a pipe that no process reads.
    server: list[str] = ["iperf3", "--server", "--port", PORT, "--logfile", os.devnull]
    stack.enter_context(netns.daemon(server, lab.root / f"iperf3-{address}"))
    listening = f"sport = :{PORT}"
    wait_until(lambda: netns.run("ss", "--no-header", "-ltn", listening), what="iperf3's port")
    end = Contestant(far, address)
    wait_until(end.is_near, what=f"a direct path to {address}")
    return end


def compare(lab: Lab, traffic: Traffic, ends: dict[str, Contestant]) -> list[Row]:
    """Rows of the enrolled pod over each other end. If nothing arrives at another end, its test is repeated; the pod's is not."""
    seconds = 1 if lab.quick else 3
    ask = {name: partial(end.rate, traffic, seconds) for name, end in ends.items()}
    ours = ask.pop("ours")
    others = {name: partial(wait_until, rate, what=f"{traffic}, {name}") for name, rate in ask.items()}
    rates = interleave(2 if lab.quick else lab.rounds, ours=ours, **others)
    mine = rates.pop("ours")
    return [
        Row("c", f"{traffic}, over tailscaled, {NAMES[name]}", "Gbit/s", mine, theirs, BOUNDS.get(name))
        for name, theirs in rates.items()
    ]
