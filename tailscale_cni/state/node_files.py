"""The files of a node's state that move with the node to another host: few, small, and with fixed names.

The worker can write to their directory, so the content is not trusted: no link is followed, and only small regular files are read.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

from . import files

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE = "tailscaled.state"
NAMES = (STATE, "settings.json")
"""The node's keys and profile (2 KiB; tsnet writes them when it registers, and when its key changes), and its preferences."""

MAX_FILE = 128 * 2**10
"""The largest file, in bytes. A Secret has at most 1 MiB."""


def is_sound(name: str, content: bytes) -> bool:
    """Whether a file has the right content: the state is a JSON object of text, the settings are a JSON object."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict) or len(content) > MAX_FILE:
        return False
    return name != STATE or all(isinstance(value, str) for value in document.values())


def read(directory: str) -> dict[str, bytes]:
    """The sound files of a directory, by name; empty if the state is not among them."""
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        found = {
            name: content for name in NAMES if (content := _read(place, name)) and is_sound(name, content)
        }
    finally:
        os.close(place)
    return found if STATE in found else {}


def write(directory: str, contents: Mapping[str, bytes]) -> None:
    """Replace a directory with a new one, owned by root, that has these files. Raises InputOutput, OSError."""
    files.remove_tree(directory)
    os.mkdir(directory, 0o700)
    for name in NAMES:
        if name in contents:
            files.write(f"{directory}/{name}", contents[name])


def _read(place: int, name: str) -> bytes:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as f:
        is_small_file = stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size <= MAX_FILE
        return f.read(MAX_FILE + 1) if is_small_file else b""
