"""What a node's supervisor asks of Python; not for people.

``run`` becomes the supervisor; the others are its questions. Each is short-lived, and finds everything in the
attachment's record.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .. import artefact, errors
from ..state.attachments import Attachment, Attachments
from ..verbs import joining, leaving
from ..verbs.namespace import recorded_netns
from ..worker import launch

if TYPE_CHECKING:
    import argparse

GONE = 3
"""Exit status: there is nothing to run. Final for the unit, so that it is not started for ever."""


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
    with recorded_netns(attachment) as found:
        netns = None if found is None else os.dup(found)
    if netns is None:
        leaving.reap(attachment)
        return GONE
    return launch.become_supervisor(
        attachment,
        netns,
        artefact.executable(),
        artefact.supervisor_binary(),
        artefact.worker_binary(),
        _first_line(attachment),
    )


def _first_line(attachment: Attachment) -> bytes:
    """With a key if the node needs one and there is one; the supervisor asks for it again, ever less often, if not."""
    if not joining.is_registered(attachment):
        try:
            return _start_line(attachment, "key")
        except errors.NoAuthKey as e:
            sys.stderr.write(f"{e}. {e.advice}\n")
    return b"start\n"


def _synchronise(attachment: Attachment, _: argparse.Namespace) -> int:
    from ..worker.localapi import LocalApi  # not what 'run' should pay for

    node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
    if node.running:
        joining.synchronise(attachment, node)
    return 0


def _rekey(attachment: Attachment, arguments: argparse.Namespace) -> int:
    sys.stdout.buffer.write(_start_line(attachment, "new-key" if arguments.deleted else "key"))
    return 0


def _log_out(attachment: Attachment, _: argparse.Namespace) -> int:
    leaving.log_out(attachment)
    return 0


def _reap(attachment: Attachment, _: argparse.Namespace) -> int:
    leaving.reap(attachment)
    return 0


def _start_line(attachment: Attachment, word: str) -> bytes:
    return f"{word} {joining.mint(attachment).reveal()}\n".encode()


TASKS = {"run": _supervise, "sync": _synchronise, "rekey": _rekey, "logout": _log_out, "reap": _reap}
