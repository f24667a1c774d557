"""Upgrade the running nodes to this version, one after the other.

Connections stay open and pause for about a second. If a node fails to restart, the upgrade stops and names it.
Nodes that already have this version are not restarted.
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
        "--state-dir", default=STATE_DIR, metavar="DIR", help="the state directory (default: %(default)s)"
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
                    _say(f"{attachment.display_name} is upgraded ({number} of {len(outdated)})")
            except errors.AnotherVersion as e:  # this does not concern the other nodes
                _say(f"{e}. {e.advice}")
                left = 1
    finally:
        cache.prune(state_dir)
    if not outdated:
        _say("all nodes on this host have this version")
    return left


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
