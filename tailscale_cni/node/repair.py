"""Repair and cleanup that ride on calls for other pods.

Best effort: nothing here fails or delays the call that it rides on for long.
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

NO_PATIENCE = 0.0


def others(state_dir: str, *, but: str = "") -> None:
    """Start what should run and does not, and clean up after pods that ended without a DEL.

    A pod that is still there and whose unit is not running is systemd's: it repairs what failed, and what an
    admin stopped stays so. ``but`` is an attachment that is looked after already; so is one whose lock somebody else holds.

    The call waits for this, and nearly all of them run: no record is read of one whose supervisor is where it should be.
    """
    store = Attachments(state_dir)
    run_dir = store.run_dir()
    for place in store.places():
        name = identify(*place)
        if name == but or launch.supervisor_at(f"{run_dir}/{name}"):
            continue
        attachment = store.get(*place)
        if attachment is None or launch.supervisor_of(attachment):
            continue
        with contextlib.suppress(errors.Error, OSError), recorded_netns(attachment) as netns:
            if netns is None:
                teardown.end(attachment, NO_PATIENCE)
            elif attachment.launcher == "session" and launch.was_started(attachment):
                with contextlib.ExitStack() as held:
                    start.restart(attachment, netns, held, patience=NO_PATIENCE)
    deletions.deliver_soon(state_dir)
    release.deliver_soon(state_dir)
