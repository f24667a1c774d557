"""The cost of running a program, from exec to exit: wall time, and the CPU time of the program and the children that it waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.process import CLEAN


@dataclass(frozen=True)
class Cost:
    """Wall time and CPU time in seconds."""

    wall: float
    cpu: float


def cost(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str] = CLEAN,
    stdin: Path = Path(os.devnull),
    stdout: Path = Path(os.devnull),
) -> Cost:
    """Run a program once, and return its cost. Raises OSError if it fails, because a failed run is no measurement.

    It uses posix_spawn and wait4, because subprocess.Popen costs more than what is measured here, and a varying amount.
    """
    files = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(stdout), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], [str(word) for word in argv], dict(environ), file_actions=files)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise OSError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)
