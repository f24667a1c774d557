"""The root directories of all state."""

from __future__ import annotations

import contextlib
import os

from . import files


def make_roots(state_dir: str, run_dir: str) -> None:
    """Create the root directories of all state, and the link to the run directory. Raises UnsafeDirectory."""
    files.make_directory(state_dir, 0o711)
    for name in ("attachments", "identities", "names"):
        files.make_directory(f"{state_dir}/{name}")
    files.make_directory(run_dir)
    link = f"{state_dir}/run"  # for records that cannot be read: they do not say where their sockets are
    if files.read_link(link, "") != run_dir:
        files.remove(link)
        with contextlib.suppress(FileExistsError):  # another first ADD of this host
            os.symlink(run_dir, link)
