"""Give the nodes that run the programs of this version, one after the other.

Their connections stay, and wait for a second at most. A node that does not come back is the last one: the others keep what they have.
Nodes that have this version already are left alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .. import archive, artefact, errors
from ..config import STATE_DIR
from ..state.installation import Installation
from ..verbs import upgrade
from .layout import BINARY

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
    installed = Installation.load(arguments.state_dir)
    path = f"{installed.bin_dir}/{BINARY}" if installed else artefact.executable()
    if not archive.is_of(path, artefact.build_id()):
        raise errors.AnotherVersion(path=path)
    upgrade_all(arguments.state_dir)
    return 0


def upgrade_all(state_dir: str) -> None:
    """And then remove the programs that nobody has any more. Raises NotUpgraded."""
    outdated = upgrade.outdated(state_dir)
    try:
        for number, attachment in enumerate(outdated, 1):
            upgrade.upgrade(attachment)
            sys.stderr.write(f"{attachment.who} has this version now ({number} of {len(outdated)})\n")
    finally:
        archive.prune(state_dir)
