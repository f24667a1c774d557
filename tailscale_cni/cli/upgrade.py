"""Give the nodes that run the programs of this version, one after the other.

Their connections stay, and wait for about a second. A node that does not come back is the last one: the others keep what they have.
Nodes that have this version already are left alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .. import archive
from ..config import STATE_DIR
from ..verbs import upgrade

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--state-dir", default=STATE_DIR, metavar="DIR", help="where state is kept (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upgrade all of this host."""
    if not upgrade_all(arguments.state_dir):
        sys.stderr.write("no node of this host has another version\n")
    return 0


def upgrade_all(state_dir: str) -> int:
    """How many nodes had another version; and then remove the programs that nobody has any more. Raises NotUpgraded, AnotherVersion."""
    try:
        outdated = upgrade.begin(state_dir)
        for number, attachment in enumerate(outdated, 1):
            if upgrade.upgrade(attachment):
                sys.stderr.write(f"{attachment.who} has this version now ({number} of {len(outdated)})\n")
    finally:
        archive.prune(state_dir)
    return len(outdated)
