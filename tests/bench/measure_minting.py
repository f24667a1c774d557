"""ADD of a pod whose auth key is created for it, by an OAuth client and by a Headscale API key, compared with an earlier commit.

The anchor is the artefact of commit 80d3202, which has its own HTTP client because the import of requests takes 70 to 130 ms. Today that
import runs in a process that ADD starts first, while ADD handles its records, locks and claims.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from builds.artefact import ROOT
from builds.cache import build_once

from tests.kit.host import Host
from tests.kit.planes import headscale, oauth

from .lab import Lab
from .measure_enrolled import enrol
from .rows import Bound, Row, interleave

BASELINE = "80d3202"


def measure(lab: Lab) -> list[Row]:
    """Measure row o."""
    rows = []
    for name, kind in (("an OAuth client", oauth), ("a Headscale API key", headscale)):
        with ExitStack() as stack:
            hosts: dict[str, Callable[[], float]] = {}
            for side in ("ours", "anchor"):
                host = kind(partial(_new_host, stack, lab, f"{kind.__name__}-{side}"), lab.control)
                if side == "anchor":
                    host.runtime.replace_plugin(baseline().read_bytes())
                enrol(host)  # unpacks the artefact
                hosts[side] = partial(enrol, host)
            samples = interleave(3 * lab.rounds, **hosts)
            what = f"ADD of an enrolled pod with {name}, over {BASELINE}"
            rows.append(Row("o", what, "ms", samples["ours"], samples["anchor"], Bound(1.03)))
    return rows


def _new_host(stack: ExitStack, lab: Lab, name: str, **config: Any) -> Host:
    return stack.enter_context(lab.host(name, **config))


def baseline() -> Path:
    """The artefact of the anchor's commit, built once from the repository's history."""

    def build(directory: Path) -> None:
        packed = subprocess.run(
            ["git", "archive", BASELINE], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
        source = directory / "source"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(source)  # noqa: S202 - it is our own history
        subprocess.run(
            [sys.executable, "packaging/build.py", "zipapp"], cwd=source, check=True, stdout=sys.stderr
        )
        shutil.copy(source / "dist" / "tailscale-cni", directory / "tailscale-cni")
        shutil.rmtree(source)

    return build_once(f"baseline-{BASELINE}", build) / "tailscale-cni"
