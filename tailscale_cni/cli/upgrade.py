"""Give the nodes that run the programs of this version, one after the other.

Their connections stay, and wait for about a second. A node that does not come back is the last one: the others keep what they have.
Nodes that have this version already are left alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .. import errors
from ..build import cache
from ..config import STATE_DIR
from ..node import upgrade

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--state-dir", default=STATE_DIR, metavar="DIR", help="where state is kept (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upgrade all nodes of this host."""
    return upgrade_all(arguments.state_dir)


def upgrade_all(state_dir: str) -> int:
    """Upgrade all nodes, then remove unused builds. Returns 1 if a node was skipped, else 0. Raises NotUpgraded."""
    left = 0
    try:
        outdated = upgrade.begin(state_dir)
        for number, attachment in enumerate(outdated, 1):
            try:
                if upgrade.upgrade(attachment):
                    _say(f"{attachment.who} has this version now ({number} of {len(outdated)})")
            except errors.AnotherVersion as e:  # this does not concern the other nodes
                _say(f"{e}. {e.advice}")
                left = 1
    finally:
        cache.prune(state_dir)
    if not outdated:
        _say("no node of this host has another version")
    return left


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
