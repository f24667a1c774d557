"""Nodes that run get the programs of this build, one after the other; their interfaces, addresses and connections stay.

The record says of which build a node's processes should be. Its supervisor is woken and asks, as if the node were to have another
name (``succession``), and begins anew with the programs of the file that it asks.

A build that does not work costs one node, however often one tries: before another one gets it, one that has it must be Running.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import errors
from ..build import artefact, interpreter
from ..identity import handover
from ..state.attachments import Attachments
from ..worker import launch
from ..worker.localapi import LocalApi
from . import repair, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..state.attachments import Attachment


SECONDS = 15.0
"""That a node has to be Running again. It takes two; a host can be busy."""

ANSWER_SECONDS = 1.0

POLL_SECONDS = 0.1


def begin(state_dir: str) -> list[Attachment]:
    """Those whose processes are of another build, when all that can be known beforehand is well.

    What should run and does not is started. Raises NotUpgraded if this build's nodes do not run, and InputOutput if it cannot be unpacked.
    """
    start.programs()
    repair.others(state_dir)
    ours = [one for one in _nodes(state_dir) if _has_this_build(one) and launch.was_running(one)]
    if ours:
        _await(ours[0], lambda: any(map(_is_running, ours)))
    return [one for one in _nodes(state_dir) if launch.supervisor_of(one) and not _has_this_build(one)]


def upgrade(attachment: Attachment) -> bool:
    """Have its processes begin anew, and wait until the node is again what it was; whether it is still to be a node.

    Raises AnotherVersion and NotUpgraded.
    """
    store, was_running = Attachments(attachment.state_dir), _is_running(attachment)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None or not _is_wanted(current) or not launch.supervisor_of(current):
            return False
        _look_at_the_file(current)
        current = current._replace(build=artefact.build_id())
        store.save(current)
    handover.wake(current)

    def is_wanted() -> bool:
        now = store.current(attachment)
        return now is not None and _is_wanted(now)

    def is_done() -> bool:
        return _has_this_build(current) and (not was_running or _is_running(current))

    _await(current, lambda: is_done() or not is_wanted())
    return is_wanted()


def _nodes(state_dir: str) -> Iterator[Attachment]:
    """Those that should be nodes. A record that cannot be read is left to its pod's end."""
    return (one for one in Attachments(state_dir).all() if one.nonce and _is_wanted(one))


def _is_wanted(attachment: Attachment) -> bool:
    return not (attachment.lost or launch.is_deleted(attachment))


def _has_this_build(attachment: Attachment) -> bool:
    return launch.build(attachment) == artefact.build_id()


def _look_at_the_file(attachment: Attachment) -> None:
    """The programs come with the file that the supervisor asks: one of another build would give it those, and end the node for that."""
    path = launch.executable(attachment)
    if path and not interpreter.has_build_id(path, artefact.build_id()):
        raise errors.AnotherVersion(pod=attachment.who, path=path)


def _await(attachment: Attachment, condition: Callable[[], bool]) -> None:
    """Raises NotUpgraded, of that pod."""
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise errors.NotUpgraded(pod=attachment.who, seconds=SECONDS, log=attachment.log)
        time.sleep(POLL_SECONDS)


def _is_running(attachment: Attachment) -> bool:
    try:
        return LocalApi.of(attachment, ANSWER_SECONDS).node().running
    except errors.LocalApiFailed:
        return False
