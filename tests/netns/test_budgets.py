"""What an enrolled pod's ADD may import, in what needs no clock: each of these takes as long as a part of the node's own start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.host import Host
from tests.kit.interpreters import SUPPORTED, interpreters
from tests.kit.runtime import Pod

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
"""Not logging: pyroute2's messages import it, 3 ms, while the node registers."""

LOOK = """
import posix, sys
def leave(status, leave=posix._exit):
    posix.write(2, ("modules: " + " ".join(sys.modules)).encode())
    leave(status)
posix._exit = leave
"""
"""In front of the door. That, and what goes on from there, ends with ``_exit``."""


@pytest.mark.parametrize("python", [path for version, path in interpreters().items() if version >= SUPPORTED])
@pytest.mark.parametrize("configured", [False, True])
def test_an_add_imports_nothing_heavy(host: Host, python: Path, *, configured: bool) -> None:
    """An ADD that starts a node and configures its address imports none of what is slow; YAML alone, where config.yaml has to be read."""
    host.start(Pod.enrolled("first"))  # unpacks the artefact
    if configured:
        (host.root / "config.yaml").write_text("namespaces: {}\n")
    sandbox = host.sandbox(Pod.enrolled("second"))
    call = host.runtime.entry(sandbox, prevResult=host.runtime.add_primary(sandbox))
    _, texts = host.runtime.plugin.read_bytes().split(b"-c '", 1)
    door, onward = texts.partition(b'\' "$0"')[0].decode().split("' '")
    done = host.netns.attempt(
        *(python, "-IS", "-c", LOOK + door, onward, host.runtime.plugin),
        stdin=json.dumps(call).encode(),
        env=host.runtime.environ("ADD", sandbox),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.addressed(sandbox)
    modules = set(done.stderr.decode().partition("modules: ")[2].split())
    assert "tailscale_cni.verbs.add" in modules
    assert modules & HEAVY == ({"yaml"} if configured else set())
