"""The size of the artefact, which is one file on each host, and of what it unpacks there, which is mostly Go programs.

The worker is tailscale without the features that no pod needs (`workers/tags.txt`), and without symbols; the supervisor contains no
tailscale. The rest is Python: tailscale_cni, pyroute2, PyYAML, and the bytecode of all of it.
"""

from __future__ import annotations

from pathlib import Path

from tests.kit import tools
from tests.kit.runtime import Pod

from .lab import Lab
from .rows import Bound, Row


def measure(lab: Lab) -> list[Row]:
    """Measure row k."""
    with lab.host("size") as host:
        host.start(Pod.enrolled("size"))
        (build,) = (host.state_dir / "cache").iterdir()
        unpacked = sum(path.stat().st_size for path in build.rglob("*") if path.is_file())
    artefact = Path(tools.artefact()).stat().st_size
    return [
        Row("k", "the artefact", "MB", (float(artefact),), None, Bound(15)),
        Row("k", "what it unpacks", "MB", (float(unpacked),), None, Bound(40)),
    ]
