"""List the retained identities of this host, or forget one.

The identity of a non-ephemeral node is retained after its pod ends, until an admin forgets it: a deleted StatefulSet may be created again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ..config import STATE_DIR, load_config
from ..devices import deletions
from ..identity import release, retained
from ..install.record import Installation
from ..state.outbox import Outbox
from ..state.releases import Releases
from .status import API_VERSION, table

if TYPE_CHECKING:
    from ..identity.retained import Retained

HEADERS = ("NAMESPACE", "NAME", "NODE", "IP", "POD", "LAST-USED")

SECONDS = 10.0
"""Seconds that ``forget`` waits for the control plane before it reports that the deletion is pending."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options and the subcommand."""
    where = "the state directory (default: %(default)s)"
    parser.add_argument("--state-dir", default=STATE_DIR, metavar="DIR", help=where)
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="the output format (default: %(default)s)",
    )
    parser.set_defaults(run=run)
    commands = parser.add_subparsers(metavar="COMMAND")
    about = "Delete a retained identity: its node and its keys. No pod may be using it."
    command = commands.add_parser("forget", help=about, description=about)
    command.add_argument("--state-dir", default=argparse.SUPPRESS, metavar="DIR", help="the state directory")
    command.add_argument(
        "identity", metavar="NAMESPACE/NAME", help="the identity as listed, or its key from the JSON output"
    )
    command.set_defaults(run=run_forget)


def run(arguments: argparse.Namespace) -> int:
    """Print one row per retained identity."""
    rows = [_row(one) for one in sorted(retained.every(arguments.state_dir), key=lambda one: one.node)]
    if arguments.output == "json":
        document = {"apiVersion": API_VERSION, "kind": "IdentityList", "items": rows}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif rows:
        sys.stdout.write(table([HEADERS, *(_cells(row) for row in rows)]))
    else:
        sys.stdout.write("This host has no retained identities.\n")
    return 0


def _row(one: Retained) -> dict[str, Any]:
    namespace, _, name = one.node.partition("/")
    return {
        "namespace": namespace,
        "name": name,
        "number": one.number,
        "node": one.identity.name,
        "addresses": list(one.identity.addresses),
        "tags": list(one.identity.tags),
        "pod": one.holder.pod if one.holder else None,
        "last_used": None if one.holder else _when(one.last_used),
        "key": one.identity.key,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    used = row["last_used"] or "now"
    cells = (
        row["namespace"],
        row["name"],
        row["node"],
        ",".join(row["addresses"]),
        row["pod"],
        used,
    )
    return tuple(cell or "-" for cell in cells)


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def run_forget(arguments: argparse.Namespace) -> int:
    """Forget one identity, and report what happens to its node. Raises NoSuchIdentity, IdentityInUse."""
    state_dir = arguments.state_dir
    found = retained.find(state_dir, arguments.identity)
    installed = Installation.load(state_dir)
    host = load_config(installed.entry if installed else {"stateDir": state_dir})
    if not retained.forget(state_dir, found, host):
        sys.stderr.write(f"{found.node}: the keys are removed. {STAYS}\n")
        return 0
    if found.identity.kubeconfig:
        release.deliver(state_dir, SECONDS)
    if Releases(state_dir).get(found.identity.key):
        outcome = "will be deleted when the Kubernetes API can be reached"
    else:
        deletions.deliver(state_dir, SECONDS)
        later = any(deletion.node_id == found.identity.node_id for deletion in Outbox(state_dir).all())
        outcome = (
            "will be deleted when the control plane can be reached"
            if later
            else "is deleted from the tailnet"
        )
    sys.stderr.write(f"{found.node}: the keys are removed, and the node {outcome}\n")
    return 0


STAYS = (
    "Without an API credential its node stays in the tailnet, offline, until you delete it there: "
    "in the admin console, or with 'headscale nodes delete'"
)
