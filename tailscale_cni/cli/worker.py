"""What a node's supervisor asks of Python; not for people.

``run`` becomes the supervisor; the others are its questions. Each is short-lived, and finds everything in the
attachment's record.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from .. import errors
from ..state.attachments import Attachment, Attachments
from ..verbs import devices, joining, keys, leaving, returns, succession
from ..verbs.namespace import recorded_netns
from ..worker import launch

if TYPE_CHECKING:
    import argparse

GONE = 3
"""Exit status: there is nothing to run. Final for the unit, so that it is not started for ever."""

MOVED = 4
"""Exit status of ``sync``: the node is to be another one, and its processes have to begin anew."""

AGAIN = 20
"""Exit status of ``rekey``: the control plane is away and may have a key soon."""

SOON = 10.0
"""Seconds that are soon."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--deleted", action="store_true", help="the control plane has forgotten the node")
    parser.add_argument("id")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do a task for an attachment."""
    attachment = Attachments(arguments.state_dir).with_id(arguments.id)
    if attachment is None:
        return GONE
    return TASKS[arguments.task](attachment, arguments)


def _supervise(attachment: Attachment, _: argparse.Namespace) -> int:
    # Who wakes a supervisor must not end one that is about to be.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if launch.is_deleted(attachment):
        return GONE
    with recorded_netns(attachment) as found:
        netns = None if found is None else os.dup(found)
    if netns is None:
        leaving.reap(attachment)
        return GONE
    if attachment.lost:
        from ..verbs import custody

        custody.give_up(attachment)
        return GONE
    current = joining.begin_anew(attachment)
    if current is None:
        return GONE
    tun = launch.open_tun(current, netns)
    return launch.become_supervisor(current, netns, tun, joining.programs(), _first_line(current))


def _first_line(attachment: Attachment) -> bytes:
    """What ADD holds for us; else what is at hand: a node without the key that it needs makes the supervisor ask, ever less often."""
    try:
        return launch.offered(attachment) or joining.line_at_hand(attachment)
    except errors.NoAuthKey as e:
        _complain(e)
        return joining.NO_KEY


def _synchronise(attachment: Attachment, _: argparse.Namespace) -> int:
    from ..worker.localapi import LocalApi  # not what 'run' should pay for

    current = succession.settle(attachment)
    if current is None:
        return GONE
    if current.lost or not launch.is_as_recorded(current):
        devices.prepare(current)  # while it is still what it was: nobody waits for it
        return MOVED
    node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
    if node.addressed:
        joining.synchronise(attachment, node)
    devices.deliver_soon(attachment.state_dir)
    return 0


def _attend(attachment: Attachment, _: argparse.Namespace) -> int:
    from ..verbs import custody, naming  # not what the others should pay for

    current = succession.settle(attachment)
    if current is None:
        return GONE
    if current.lost or not launch.is_as_recorded(current):
        return MOVED
    again = naming.seek(current) if current.seeks_name else custody.attend(current)
    if again is None:
        return MOVED
    returns.deliver_soon(attachment.state_dir)
    sys.stdout.write(f"{again:.0f}\n")
    return 0


def _rekey(attachment: Attachment, arguments: argparse.Namespace) -> int:
    if arguments.deleted and leaving.stays_deleted(attachment):
        _complain(errors.NodeDeleted(pod=attachment.who))
        return GONE
    if attachment.ephemeral:
        devices.make_way(attachment)
    word = "new-key" if arguments.deleted else "key"
    try:
        key = keys.mint_in_turn(attachment)
    except errors.ControlUnavailable as e:
        _complain(e)
        return AGAIN if e.again <= SOON else 1
    sys.stdout.buffer.write(f"{word} {key.reveal()}\n".encode())
    return 0


def _complain(e: errors.Error) -> None:
    """To the node's log."""
    sys.stderr.write(f"{e}. {e.advice}\n")


def _log_out(attachment: Attachment, _: argparse.Namespace) -> int:
    leaving.log_out(attachment)
    return 0


def _reap(attachment: Attachment, _: argparse.Namespace) -> int:
    leaving.reap(attachment)
    return 0


TASKS = {
    "run": _supervise,
    "sync": _synchronise,
    "attend": _attend,
    "rekey": _rekey,
    "logout": _log_out,
    "reap": _reap,
}
