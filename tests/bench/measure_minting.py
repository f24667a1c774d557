"""ADD of a pod whose auth key is created for it, by an OAuth client and by a Headscale API key, compared with an earlier commit.

The anchor is the artefact of commit 80d3202, which has its own HTTP client because the import of requests takes 70 to 130 ms. Today that
import runs in a process that ADD starts first, while ADD handles its records, locks and claims.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.kit import tools
from tests.kit.host import Host
from tests.kit.planes import headscale, oauth

from .lab import Lab
from .measure_enrolled import enrol
from .rows import Bound, Row, interleave

BASELINE = tools.PREVIOUS[:7]


def measure(lab: Lab) -> list[Row]:
    """Measure row o."""
    rows = []
    for name, kind in (("an OAuth client", oauth), ("a Headscale API key", headscale)):
        with ExitStack() as stack:
            hosts: dict[str, Callable[[], float]] = {}
            for side in ("ours", "anchor"):
                host = kind(partial(_new_host, stack, lab, f"{kind.__name__}-{side}"), lab.control)
                if side == "anchor":
                    host.runtime.replace_plugin(tools.previous().read_bytes())
                enrol(host)  # unpacks the artefact
                hosts[side] = partial(enrol, host)
            samples = interleave(3 * lab.rounds, **hosts)
            what = f"ADD of an enrolled pod with {name}, over {BASELINE}"
            rows.append(Row("o", what, "ms", samples["ours"], samples["anchor"], Bound(1.03)))
    return rows


def _new_host(stack: ExitStack, lab: Lab, name: str, **config: Any) -> Host:
    return stack.enter_context(lab.host(name, **config))
