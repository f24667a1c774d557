"""Run a task for a supervisor (internal)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tasks

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("task", choices=sorted(tasks.TASKS))
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--deleted", action="store_true", help="the node was deleted from the control plane")
    parser.add_argument("id")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Perform the task and return its exit status (``tasks.exits``)."""
    return tasks.perform(arguments.task, arguments.state_dir, arguments.id, deleted=arguments.deleted)
