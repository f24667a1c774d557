"""Render our list anew when the primary's changed, and the note that the fast path reads."""

from __future__ import annotations

import contextlib

from .. import config, errors
from ..state import files, records
from . import conflist
from .record import Installation


def keep_in_step(host: config.Config) -> bool:
    """Render our list anew if the primary's changed, and note what the fast path must know; whether ours was another one.

    What is watched is looked at before it is read: a change in between is seen the next time.
    """
    renewed = False
    with contextlib.suppress(errors.Error, OSError):
        path = f"{host.state_dir}/enroll.json"
        for _ in range(3):  # our own rename changes the directory
            installed = _installed(host.state_dir)
            watched = _watched(installed)
            view = config.fastpath_note(host, *watched)
            if _is_written(path, view):
                break
            if not (installed and _refresh(installed)):
                files.write_json(path, view)
                break
            renewed = True
    return renewed


def _installed(state_dir: str) -> Installation | None:
    """What is installed; None, with a warning, if the record cannot be read: our list then stays as it is."""
    try:
        return Installation.load(state_dir)
    except errors.UnreadableState as e:
        records.warn(f"{e}; 'tailscale-cni install' writes it anew")
        return None


def _is_written(path: str, note: object) -> bool:
    """Whether a file has this in it. Anything else at its place is removed."""
    try:
        return files.read_json(path) == note
    except errors.UnreadableState:
        files.clear(path)
        return False


def _watched(installed: Installation | None) -> list[str]:
    if installed is None:
        return []
    try:
        return [installed.conf_dir, conflist.find_primary(installed.conf_dir).path]
    except errors.NoPrimary:
        return [installed.conf_dir]


def _refresh(installed: Installation) -> bool:
    """Whether our list was another one. A primary that cannot be read keeps the list that is there."""
    try:
        primary = conflist.find_primary(installed.conf_dir)
    except errors.NoPrimary:
        return False
    content = conflist.derive(primary, installed.entry)
    return files.put(f"{installed.conf_dir}/{conflist.NAME}", content, 0o644)
