"""Which host this is, where its name is not enough: a name can be another machine's tomorrow."""

from __future__ import annotations

import contextlib
import os

from . import files


def host_id(state_dir: str) -> str:
    """32 hex digits, made once, that nobody can guess."""
    path = f"{state_dir}/host"
    known = files.read(path).strip()
    if known:
        return known
    temporary = f"{path}.{os.getpid()}~"
    files.write(temporary, f"{os.urandom(16).hex()}\n".encode())
    with contextlib.suppress(FileExistsError):  # somebody else was first
        os.link(temporary, path)
    files.remove(temporary)
    files.sync_directory(state_dir)
    return files.read(path).strip()
