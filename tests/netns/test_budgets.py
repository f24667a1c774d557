"""Limits on a node's cost that need no clock: the modules that its ADD imports, and the memory that it uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit import traffic
from tests.kit.host import Host
from tests.kit.interpreters import SUPPORTED, interpreters
from tests.kit.peer import Peer
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

HEAVY = {
    "http",
    "email",
    "ssl",
    "yaml",
    "dataclasses",
    "inspect",
    "asyncio",
    "argparse",
}
"""Modules whose import takes a noticeable part of a node's start.

logging (3 ms) is not one of them: pyroute2's messages import it while the node registers.
"""

LOOK = """
import posix, sys
def leave(status, leave=posix._exit):
    posix.write(2, ("modules: " + " ".join(sys.modules)).encode())
    leave(status)
posix._exit = leave
"""
"""Runs before the fast path and prints the imported modules. The fast path and the code after it end with ``_exit``."""


@pytest.mark.parametrize("python", [path for version, path in interpreters().items() if version >= SUPPORTED])
@pytest.mark.parametrize("configured", [False, True])
def test_an_add_imports_nothing_heavy(host: Host, python: Path, *, configured: bool) -> None:
    """An ADD that starts a node and configures its address imports no slow module, except yaml if it has to read config.yaml."""
    host.start(Pod.enrolled("first"))  # unpacks the artefact
    if configured:
        (host.root / "config.yaml").write_text("namespaces: {}\n")
    sandbox = host.sandbox(Pod.enrolled("second"))
    call = host.runtime.entry(sandbox, prevResult=host.runtime.add_primary(sandbox))
    _, texts = host.runtime.plugin.read_bytes().split(b"-c '", 1)
    fastpath, bootstrap = texts.partition(b'\' "$0"')[0].decode().split("' '")
    done = host.netns.attempt(
        *(python, "-IS", "-c", LOOK + fastpath, bootstrap, host.runtime.plugin),
        stdin=json.dumps(call).encode(),
        env=host.runtime.environ("ADD", sandbox),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.addressed(sandbox)
    modules = set(done.stderr.decode().partition("modules: ")[2].split())
    assert "tailscale_cni.verbs.add" in modules
    assert modules & HEAVY == ({"yaml"} if configured else set())


def test_an_idle_node_holds_little(host: Host) -> None:
    """The two processes of a pod hold less than 9 MB of private memory, once they have returned what their start needed."""
    pods = [host.start(Pod.enrolled(f"idle-{n}")) for n in range(2)]  # so that each program's text is shared
    for process in (host.supervisor(pods[0]), host.worker(pods[0])):
        assert process.status["THP_enabled"] == "0", (
            "with huge pages, which many kernels use unasked, it is 20 MB"
        )
    wait_until(
        lambda: all(host.private_memory(pod) < 9_000_000 for pod in pods), what="what an idle node holds"
    )


def test_a_busy_node_holds_little(host: Host, peer: Peer) -> None:
    """While a pod receives 500 MB and sends 500 MB, its worker uses less than 45 MB at any time.

    The measured peak is 31 MB, of which 20 MB are the program's text.
    """
    pod = host.start(Pod.enrolled("busy"))
    address, size, worker = host.addresses(pod)[0], 500_000_000, host.worker(pod)
    with traffic.sink(pod.netns, host.root / "sink.log"):
        assert traffic.pour(peer.netns, address, size) == size
    with traffic.sink(peer.netns, host.root / "peer-sink.log"):
        assert traffic.pour(pod.netns, peer.addresses[0], size) == size
    assert host.worker(pod) == worker  # the worker has not restarted
    peak = int(worker.status["VmHWM"].removesuffix(" kB"))
    assert peak < 45_000, f"{peak} kB"
