"""The ID of this host. The host's name is not enough, because another machine can have the same name tomorrow."""

from __future__ import annotations

import contextlib
import os

from . import files, records


def host_id(state_dir: str) -> str:
    """The host ID: 32 random hex digits, which are created once."""
    path = f"{state_dir}/host"
    known = files.read(path).strip()
    if _is_id(known):
        return known
    if os.path.lexists(path):
        place = records.set_aside(state_dir, path)
        records.warn(f"{path} had no host ID in it, and is {place} now: the cluster sees a new host")
    temporary = f"{path}.{os.getpid()}~"
    files.write(temporary, f"{os.urandom(16).hex()}\n".encode())
    with contextlib.suppress(FileExistsError):  # another process was first
        os.link(temporary, path)
    files.remove(temporary)
    files.sync_directory(state_dir)
    return files.read(path).strip()


def _is_id(text: str) -> bool:
    return len(text) == 32 and text.isalnum()
