"""Show the nodes that are kept on this host for pods to come, or forget one.

A node that outlives its pod is kept until somebody says that nobody wants it any more: a StatefulSet that was deleted may come back.
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
    from ..identity.retained import Kept

HEADERS = ("NAMESPACE", "NAME", "NODE", "IP", "POD", "LAST-USED")

SECONDS = 10.0
"""Seconds that ``forget`` waits for the control plane before it reports that the deletion is pending."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options and the subcommand."""
    where = "where state is kept (default: %(default)s)"
    parser.add_argument("--state-dir", default=STATE_DIR, metavar="DIR", help=where)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="the form (default: %(default)s)"
    )
    parser.set_defaults(run=run)
    commands = parser.add_subparsers(metavar="COMMAND")
    about = "delete a node that no pod is at the moment, and its keys"
    command = commands.add_parser("forget", help=about, description=about)
    command.add_argument("--state-dir", default=argparse.SUPPRESS, metavar="DIR", help="the same")
    command.add_argument("identity", metavar="NAMESPACE/NAME", help="as listed; or its key, as in JSON")
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
        sys.stdout.write("No node is kept on this host.\n")
    return 0


def _row(one: Kept) -> dict[str, Any]:
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
        sys.stderr.write(f"its keys are removed. {found.node}: {STAYS}\n")
        return 0
    if found.identity.kubeconfig:
        release.deliver(state_dir, SECONDS)
    if Releases(state_dir).get(found.identity.key):
        outcome = "will be deleted when the cluster can be told"
    else:
        deletions.deliver(state_dir, SECONDS)
        later = any(deletion.node_id == found.identity.node_id for deletion in Outbox(state_dir).all())
        outcome = "will be deleted when the control plane can be told" if later else "is deleted"
    sys.stderr.write(f"its keys are removed, and the node of {found.node} {outcome}\n")
    return 0


STAYS = "its node stays in the list of machines, offline, until you delete it there: there is no API to say it through"
