"""The policy is a small part of an ADD: importing it, parsing annotations, permissions, and the node's name.

It is timed in fresh interpreters with the unpacked artefact: from the moment when the call has been read, as for every pod, until the pod's
intent exists. A process that only reads the host's configuration is timed beside it and subtracted, because every enrolled ADD reads the
configuration anyway. Imports that ADD needs later as well count as the policy's. The API is not used: the pod's name tells its owner, and
`config.yaml` has the annotations of its namespace.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from statistics import median

from tests.kit.host import Host
from tests.kit.interpreters import SUPPORTED, interpreters
from tests.kit.process import run
from tests.kit.runtime import Pod

from .lab import Lab
from .measure_passthrough import PREV_RESULT, install
from .rows import Bound, Row, interleave

CALLS = 5
"""The number of calls in one sample."""

CONFIGURATION = """
oauthClientSecretFile: /etc/tailscale-cni/oauth-client-secret
tags: [tag:k8s-pod]
namespaces:
  media: {tailscale.com/tags: "tag:k8s-pod,tag:media"}
permissions:
  "*": {features: [enabled, hostname]}
  media: {tags: ["tag:media*"], features: ["*"]}
"""

TIMED = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from tailscale_cni.cni import dispatch, request
asked = request.parse(os.environ, sys.stdin.buffer.read())
started = time.perf_counter(), time.process_time()
{work}
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""
POLICY = "from tailscale_cni.node.resolve import resolve; assert resolve(asked).intent.name == 'jellyfin'"
READING = "from tailscale_cni.config import load_config; assert load_config(asked.config).namespaces"


def measure(lab: Lab) -> list[Row]:
    """Measure row l for each Python; in a quick run only for the newest Python."""
    pythons = [(version, python) for version, python in interpreters().items() if version >= SUPPORTED]
    rows = []
    for (major, minor), python in pythons[-1:] if lab.quick else pythons:
        with lab.host(f"policy{minor}") as host:
            call = Call(host, python)
            work = {"whole": POLICY, "reading": READING}
            contestants = {name: partial(call.seconds, text) for name, text in work.items()}
            samples = interleave(lab.rounds, **contestants)
        for index, clock in enumerate(("wall", "CPU")):
            pairs = zip(samples["whole"], samples["reading"], strict=True)
            ours = tuple(whole[index] - reading[index] for whole, reading in pairs)
            what = f"policy of an enrolled ADD, CPython {major}.{minor}, {clock}"
            rows.append(Row("l", what, "ms", ours, None, Bound(20)))
    return rows


class Call:
    """An ADD, and the site-packages that this Python has unpacked from the artefact on a host."""

    def __init__(self, host: Host, python: Path) -> None:
        install(python, host.runtime.plugin)
        host.start(Pod.enrolled("unpacks"))
        (build,) = (host.state_dir / "cache").iterdir()
        self.python, self.site = python, build / "site-packages"
        (host.root / "config.yaml").write_text(CONFIGURATION)
        pod = host.sandbox(Pod.enrolled("jellyfin-deployment-7b5d9c6f8-x2c4z", namespace="media"))
        self.stdin = json.dumps(host.runtime.entry(pod, prevResult=PREV_RESULT))
        self.environ = host.runtime.environ("ADD", pod)

    def seconds(self, work: str) -> tuple[float, float]:
        """Seconds of ``work`` after the call has been read, wall and CPU: the medians of several processes."""
        argv: list[str | Path] = [self.python, "-IS", "-c", TIMED.format(work=work), self.site]
        said = [run(argv, stdin=self.stdin, env=self.environ).split() for _ in range(CALLS)]
        return median(float(wall) for wall, _ in said), median(float(cpu) for _, cpu in said)
