"""Nodes that run get the programs of this build, one after the other; their interfaces, addresses and connections stay.

The record says of which build a node's processes should be. Its supervisor is woken and asks, as if the node were to have another
name (``succession``), and begins anew with the programs of the installed file.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import artefact, errors
from ..state.attachments import Attachments
from ..worker import launch
from ..worker.localapi import LocalApi
from . import succession

if TYPE_CHECKING:
    from ..state.attachments import Attachment

SECONDS = 15.0
"""That a node has to be Running again. It takes two; a host can be busy."""

ANSWER_SECONDS = 1.0

POLL_SECONDS = 0.1


def outdated(state_dir: str) -> list[Attachment]:
    """Those whose processes are of another build."""
    return [
        one
        for one in Attachments(state_dir).all()
        if launch.running(one) and not launch.is_deleted(one) and launch.build(one) != artefact.build_id()
    ]


def upgrade(attachment: Attachment) -> None:
    """Have its processes begin anew, and wait until the node is again what it was.

    Nothing if its pod ends meanwhile. Raises NotUpgraded.
    """
    store, was_running = Attachments(attachment.state_dir), _is_running(attachment)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            return
        current = current._replace(build=artefact.build_id())
        store.save(current)
    succession.wake(current)
    end = time.monotonic() + SECONDS
    while store.current(current) and not _is_upgraded(current, running=was_running):
        if time.monotonic() > end:
            raise errors.NotUpgraded(pod=current.who, seconds=SECONDS, log=current.log)
        time.sleep(POLL_SECONDS)


def _is_upgraded(attachment: Attachment, *, running: bool) -> bool:
    """Whether its processes are of this build, and the node Running if it was."""
    return launch.build(attachment) == artefact.build_id() and (not running or _is_running(attachment))


def _is_running(attachment: Attachment) -> bool:
    try:
        return LocalApi.of(attachment, ANSWER_SECONDS).node().running
    except errors.LocalApiFailed:
        return False
