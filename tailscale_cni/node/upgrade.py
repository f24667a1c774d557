"""Upgrading running nodes to this build, one after the other. Interfaces, addresses and connections stay.

The record names the build that a node's processes should have. The supervisor is woken, notices that its own build differs, and restarts
with the programs of the artefact at its path.

A build that does not work stops at most one node, even if the upgrade is tried several times: a node of this build must be Running before
the next node is upgraded.
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


RUNNING_TIMEOUT = 15.0
"""Seconds until a node must be Running again. On an idle host, this takes two seconds."""

ANSWER_TIMEOUT = 1.0
"""Seconds for one answer of a node's LocalAPI."""

POLL_INTERVAL = 0.1


def begin(state_dir: str) -> list[Attachment]:
    """The attachments whose processes have another build.

    Starts processes that should run and do not. Raises NotUpgraded if a node of this build was Running and none is now; InputOutput if
    this build cannot be unpacked.
    """
    start.programs()
    repair.others(state_dir)
    ours = [one for one in _nodes(state_dir) if _has_this_build(one) and launch.was_running(one)]
    if ours:
        _await(ours[0], lambda: any(map(_is_running, ours)))
    return [one for one in _nodes(state_dir) if launch.supervisor_of(one) and not _has_this_build(one)]


def upgrade(attachment: Attachment) -> bool:
    """Restart the node's processes with this build, and wait until the node is Running again, if it was.

    Returns False if the pod should no longer be a node. Raises AnotherVersion, NotUpgraded.
    """
    store, was_running = Attachments(attachment.state_dir), _is_running(attachment)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None or not _is_wanted(current) or not launch.supervisor_of(current):
            return False
        _check_artefact(current)
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
    """The attachments that should be nodes. A record that cannot be read is left until its pod ends."""
    return (one for one in Attachments(state_dir).all() if one.nonce and _is_wanted(one))


def _is_wanted(attachment: Attachment) -> bool:
    return not (attachment.lost or launch.is_deleted(attachment))


def _has_this_build(attachment: Attachment) -> bool:
    return launch.build(attachment) == artefact.build_id()


def _check_artefact(attachment: Attachment) -> None:
    """Raise AnotherVersion if the supervisor would restart with another build, because the artefact at its path is another one."""
    path = launch.executable(attachment)
    if path and not interpreter.has_build_id(path, artefact.build_id()):
        raise errors.AnotherVersion(pod=attachment.display_name, path=path)


def _await(attachment: Attachment, condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises NotUpgraded, with the attachment's pod in the message."""
    end = time.monotonic() + RUNNING_TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise errors.NotUpgraded(pod=attachment.display_name, seconds=RUNNING_TIMEOUT, log=attachment.log)
        time.sleep(POLL_INTERVAL)


def _is_running(attachment: Attachment) -> bool:
    try:
        return LocalApi.of(attachment, ANSWER_TIMEOUT).node().running
    except errors.LocalApiFailed:
        return False
