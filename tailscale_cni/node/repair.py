"""Repair and cleanup of other pods' nodes during a call for one pod.

A failure here does not fail that call, and nothing here delays it for long.
"""

from __future__ import annotations

import contextlib

from .. import errors
from ..devices import deletions
from ..identity import release
from ..state.attachments import Attachments, identify
from ..worker import launch
from . import start, teardown
from .netns import recorded_netns

DO_NOT_WAIT = 0.0
"""Seconds to wait for a lock. A pod whose lock is held is handled by another call."""


def others(state_dir: str, *, but: str = "") -> None:
    """Start processes that should run and do not, and clean up after pods that ended without a DEL.

    A unit that does not run is left to systemd, which restarts failed units and leaves units alone that an administrator stopped. ``but``
    is the ID of an attachment to skip.

    The call waits for this. Because nearly all nodes run, the record of a node whose supervisor is alive is not read.
    """
    store = Attachments(state_dir)
    run_dir = store.run_dir()
    for place in store.places():
        name = identify(*place)
        if name == but or launch.supervisor_at(f"{run_dir}/{name}"):
            continue
        with contextlib.suppress(errors.Error, OSError):  # a record on a bad block is its own pod's problem
            _repair(store, place)
    deletions.deliver_soon(state_dir)
    release.deliver_soon(state_dir)


def _repair(store: Attachments, place: tuple[str, str, str]) -> None:
    """Remove an attachment whose namespace is gone, or start its processes. ``place`` is network, container ID and interface."""
    attachment = store.get(*place)
    if attachment is None or launch.supervisor_of(attachment):
        return
    with recorded_netns(attachment) as netns:
        if netns is None:
            teardown.end(attachment, DO_NOT_WAIT)
        elif attachment.launcher == "session" and launch.was_started(attachment):
            with contextlib.ExitStack() as held:
                start.restart(attachment, netns, held, patience=DO_NOT_WAIT)
