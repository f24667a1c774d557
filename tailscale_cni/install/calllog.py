"""The host's ``logFile``: one line per CNI call, for admins who cannot see the plugin's standard error."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ..config import load_for_cleanup

if TYPE_CHECKING:
    from collections.abc import Mapping


def append(entry: Mapping[str, Any], line: str) -> None:
    """Append a line to the log file of the configuration that ``entry`` loads, if one is set. Raises OSError."""
    path = load_for_cleanup(entry).log_file
    if not path:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags | os.O_NONBLOCK, 0o600)  # opening a FIFO must not block a call
    try:
        os.write(fd, f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n".encode())
    finally:
        os.close(fd)
