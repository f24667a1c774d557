"""What a node's supervisor asks of Python; not for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tasks

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("task", choices=sorted(tasks.TASKS))
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--deleted", action="store_true", help="the control plane has forgotten the node")
    parser.add_argument("id")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Perform the task; the exit status is one of ``tasks.exits``."""
    return tasks.perform(arguments.task, arguments.state_dir, arguments.id, deleted=arguments.deleted)
