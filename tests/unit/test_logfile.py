"""The host's log file: one line per call, for users who cannot see the runtime's standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_a_call_leaves_its_line_in_the_log_file(tmp_path: Path) -> None:
    """The line on standard error is appended to ``logFile`` with the time. Only root can read the file."""
    log = tmp_path / "log"
    entry = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "tailscale-cni",
        "configFile": str(tmp_path / "none"),
        "stateDir": str(tmp_path / "state"),
        "logFile": str(log),
    }
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "tailscale_cni"],
            check=False,
            input=json.dumps(entry),
            capture_output=True,
            text=True,
            env={"CNI_COMMAND": "GC", "CNI_PATH": "/nowhere"},
        )
        assert done.returncode == 0, done
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(done.stderr.strip())
    assert log.stat().st_mode & 0o777 == 0o600
