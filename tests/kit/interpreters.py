"""The Python interpreters of this machine."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

SUPPORTED = (3, 10)
"""The oldest Python version that the product supports."""

PLACES = (
    "/usr/bin",
    "/usr/local/bin",
    "/opt/python*/bin",
    "/root/.pyenv/versions/*/bin",
    "/home/*/.pyenv/versions/*/bin",
)


@cache
def interpreters() -> dict[tuple[int, int], Path]:
    """The path of one CPython per installed version, oldest first."""
    folders = [*os.get_exec_path(), *(str(path) for place in PLACES for path in Path("/").glob(place[1:]))]
    found: dict[tuple[int, int], Path] = {}
    for path in (path for folder in folders for path in sorted(Path(folder).glob("python3*"))):
        if path.name.removeprefix("python3").strip(".0123456789") == "" and os.access(path, os.X_OK):
            ask = [str(path), "-IS", "-c", "import sys; print(*sys.version_info[:2], sys.executable)"]
            said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split(maxsplit=2)
            if len(said) == 3:
                found.setdefault((int(said[0]), int(said[1])), Path(said[2].strip()))
    return dict(sorted(found.items()))
