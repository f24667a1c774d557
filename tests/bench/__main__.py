"""Take all measurements once, print the table, save it in dist/bench.json, draw plots, and write docs/performance.md.

``python -m tests.bench [--quick] [LETTER …]``: a quick run, or a run of only some rows, is saved under another name and writes no page.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.kit import tools

from . import (
    measure_crowd,
    measure_enrolled,
    measure_growth,
    measure_idle,
    measure_memory,
    measure_minting,
    measure_passthrough,
    measure_policy,
    measure_restart,
    measure_size,
    measure_throughput,
    report,
)
from .lab import Lab, Measure, calm_down
from .rows import Row

MEASURES: dict[str, Measure] = {
    "a": measure_passthrough.measure,
    "bj": measure_enrolled.measure,
    "c": measure_throughput.measure,
    "de": measure_memory.measure,
    "fh": measure_crowd.measure,
    "g": measure_idle.measure,
    "i": measure_restart.measure,
    "k": measure_size.measure,
    "l": measure_policy.measure,
    "m": measure_growth.measure,
    "o": measure_minting.measure,
}
"""The measurements by the letters of their rows, in the order in which they are taken."""


def main() -> int:
    """Run the bench; return 0 if every bound is kept."""
    parser = argparse.ArgumentParser(
        prog="tests.bench", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under three minutes")
    parser.add_argument("letters", nargs="*", help="only these rows")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("The bench makes network namespaces: please run it as root.", file=sys.stderr)
        return 1
    print(f"{tools.artefact()}, {tools.clients()}, {tools.devcontrol()}", file=sys.stderr)  # builds them
    rows: list[Row] = []
    wanted = set("".join(options.letters))
    try:
        for letters, measure in MEASURES.items():
            if wanted and not wanted.intersection(letters):
                continue
            print(f"rows {', '.join(letters)} … ", end="", file=sys.stderr, flush=True)
            if not options.quick:
                calm_down()
            started = time.monotonic()
            with Lab.opened(quick=options.quick) as lab:
                rows += measure(lab)
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    finally:  # a run that fails after half an hour prints what it has measured
        rows.sort(key=lambda row: row.letter)
        print(report.table(rows))
    run = report.Run.of("bench-some" if wanted else "bench-quick" if options.quick else "bench", rows)
    run.save()
    if not wanted:
        run.draw()
        if not options.quick:
            run.write_page([sys.modules[measure.__module__] for measure in MEASURES.values()])
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
