"""Repair and cleanup that ride on calls for other pods.

Best effort: nothing here fails or delays the call that it rides on for long.
"""

from __future__ import annotations

import contextlib

from .. import config, conflist, errors
from ..state import files, records
from ..state.attachments import Attachments, identify
from ..state.installation import Installation
from ..worker import launch
from . import devices, joining, leaving, returns
from .namespace import recorded_netns

NO_PATIENCE = 0.0


def keep_in_step(host: config.Config) -> bool:
    """Render our list anew if the primary's changed, and note what the door must know; whether ours was another one.

    What is watched is looked at before it is read: a change in between is seen the next time.
    """
    renewed = False
    with contextlib.suppress(errors.Error, OSError):
        path = f"{host.state_dir}/enroll.json"
        for _ in range(3):  # our own rename changes the directory
            installed = _installed(host.state_dir)
            watched = _watched(installed)
            view = config.door_view(host, *watched)
            if _is_written(path, view):
                break
            if not (installed and _refresh(installed)):
                files.write_json(path, view)
                break
            renewed = True
    return renewed


def _installed(state_dir: str) -> Installation | None:
    """What was installed; None if that cannot be read, which is said: our list then stays as it is."""
    try:
        return Installation.load(state_dir)
    except errors.UnreadableState as e:
        records.warn(f"{e}; 'tailscale-cni install' writes it anew")
        return None


def _is_written(path: str, view: object) -> bool:
    """Whether a file has this in it. Anything else that is there makes room."""
    try:
        return files.read_json(path) == view
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


def revive(state_dir: str, *, but: str = "") -> None:
    """Start what should run and does not, and clean up after pods that ended without a DEL.

    A pod that is still there and whose unit is not running is systemd's: it repairs what failed, and what an
    admin stopped stays so. ``but`` is an attachment that is looked after already; so is one whose lock somebody else holds.

    The call waits for this, and nearly all of them run: no record is read of one whose supervisor is where it should be.
    """
    store = Attachments(state_dir)
    run_dir = store.run_dir()
    for place in store.places():
        name = identify(*place)
        if name == but or launch.runs(f"{run_dir}/{name}"):
            continue
        attachment = store.get(*place)
        if attachment is None or launch.running(attachment):
            continue
        with contextlib.suppress(errors.Error, OSError), recorded_netns(attachment) as netns:
            if netns is None:
                leaving.end(attachment, NO_PATIENCE)
            elif attachment.launcher == "session" and launch.was_started(attachment):
                joining.restart(attachment, netns, patience=NO_PATIENCE)
    devices.deliver_soon(state_dir)
    returns.deliver_soon(state_dir)
