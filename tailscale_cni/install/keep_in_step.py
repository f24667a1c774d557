"""Keep our network list in step with the primary's, and write the note that the fast path reads (``stateDir/enroll.json``)."""

from __future__ import annotations

import contextlib

from .. import errors
from ..config import Config, fastpath_note
from ..state import files, records
from . import conflist
from .record import Installation


def keep_in_step(config: Config) -> bool:
    """Render our list again if the primary's list changed, and update the fast path's note. Returns whether our list changed.

    The fingerprints of the watched files are taken before the files are read, so that the next call notices a change in between.
    Errors are ignored: the next call tries again.
    """
    renewed = False
    with contextlib.suppress(errors.Error, OSError):
        path = f"{config.state_dir}/enroll.json"
        for _ in range(3):  # our own rename changes the watched directory
            installed = _installed(config.state_dir)
            watched = _watched(installed)
            note = fastpath_note(config, *watched)
            if _is_written(path, note):
                break
            if not (installed and _refresh(installed)):
                files.write_json(path, note)
                break
            renewed = True
    return renewed


def _installed(state_dir: str) -> Installation | None:
    """The record; None, with a warning, if it cannot be read. Our list then stays as it is."""
    try:
        return Installation.load(state_dir)
    except errors.UnreadableState as e:
        records.warn(f"{e}; 'tailscale-cni install' writes it anew")
        return None


def _is_written(path: str, note: object) -> bool:
    """Whether the file contains this note. A file that cannot be read is removed."""
    try:
        return files.read_json(path) == note
    except errors.UnreadableState:
        files.clear(path)
        return False


def _watched(installed: Installation | None) -> list[str]:
    """The paths that a change of the primary's list changes: the directory of the lists, and the list."""
    if installed is None:
        return []
    try:
        return [installed.conf_dir, conflist.find_primary(installed.conf_dir).path]
    except errors.NoPrimary:
        return [installed.conf_dir]


def _refresh(installed: Installation) -> bool:
    """Render our list from the primary's. Returns whether it changed. If there is no usable primary, our list stays as it is."""
    try:
        primary = conflist.find_primary(installed.conf_dir)
    except errors.NoPrimary:
        return False
    content = conflist.derive(primary, installed.entry)
    return files.put(f"{installed.conf_dir}/{conflist.NAME}", content, 0o644)
