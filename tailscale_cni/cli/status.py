"""Show the nodes of this host's pods.

The exit status is 1 if any node is not running.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from .. import errors
from ..config import STATE_DIR
from ..node import credentials
from ..state.attachments import Attachment, Attachments
from ..worker import launch
from ..worker.localapi import LocalApi

if TYPE_CHECKING:
    import argparse

API_VERSION = "tailscale-cni/v1"
HEADERS = ("NAMESPACE", "POD", "NAME", "IP", "STATE", "TAGS", "PATH", "LAST-HANDSHAKE")
ANSWER_SECONDS = 2.0

CONTROL_SECONDS = 1.0
"""How long ``status`` waits for a control plane to report when its credential expires."""


@dataclass(frozen=True)
class Row:
    """A row of the output: one node."""

    namespace: str
    pod: str
    name: str
    addresses: tuple[str, ...]
    state: str
    tags: tuple[str, ...]
    path: str
    last_handshake: str
    port: int
    id: str
    log: str
    note: str = ""
    """A problem and what to do about it; usually empty."""

    @classmethod
    def of(cls, attachment: Attachment) -> Row:
        """Query the node's worker. If it does not respond, STATE says so.

        Peers are requested only if the node talks to any: a list of hundreds costs a worker a megabyte, and a host with hundreds of
        nodes several seconds.
        """
        try:
            node = LocalApi.of(attachment, ANSWER_SECONDS).node(peers=launch.talks(attachment))
            state, name, addresses = node.state, node.name, tuple(map(str, node.addresses))
            tags, paths, handshake = node.tags, node.paths, node.last_handshake
        except errors.LocalApiFailed:
            state = "NotAnswering" if launch.supervised(attachment) else "NotSupervised"
            name, addresses, tags, paths, handshake = (
                attachment.hostname,
                launch.configured(attachment),
                attachment.tags,
                (),
                "",
            )
        note = ""
        if launch.is_deleted(attachment):
            state, deleted = "Deleted", errors.NodeDeleted(pod=attachment.who)
            note = f"{deleted}. {deleted.advice}"
        path = "direct" if "direct" in paths else "relay" if paths else "idle"
        never = handshake.startswith("0001") or not handshake
        return cls(
            namespace=attachment.namespace,
            pod=attachment.pod,
            name=name,
            addresses=addresses,
            state=state,
            tags=tags,
            path=path,
            last_handshake="" if never else handshake,
            port=attachment.port,
            id=attachment.id,
            log=attachment.log,
            note=note,
        )

    def cells(self) -> tuple[str, ...]:
        """Return the cells in the order of ``HEADERS``. An empty value is ``-``, so that no column is empty."""
        row = (
            self.namespace,
            self.pod,
            self.name,
            ",".join(self.addresses),
            self.state,
            ",".join(self.tags),
            self.path,
        )
        return tuple(cell or "-" for cell in (*row, self.last_handshake))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--state-dir", default=STATE_DIR, metavar="DIR", help="the state directory (default: %(default)s)"
    )
    parser.add_argument("-n", "--namespace", metavar="NAME", help="show only this namespace")
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="the output format (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one row per node."""
    wanted = [a for a in Attachments(arguments.state_dir).all() if arguments.namespace in (None, a.namespace)]
    with ThreadPoolExecutor(max_workers=32) as pool:
        ask = partial(credentials.end, seconds=CONTROL_SECONDS)
        asked = pool.map(ask, credentials.in_use(arguments.state_dir))
        rows = sorted(pool.map(Row.of, wanted), key=lambda row: (row.namespace, row.pod))
        ends = list(asked)
    if arguments.output == "json":
        document = {
            "apiVersion": API_VERSION,
            "kind": "NodeList",
            "items": [asdict(row) for row in rows],
            "credentials": [_credential(end) for end in ends],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(
            table([HEADERS, *(row.cells() for row in rows)]) if rows else "No pod on this host is a node.\n"
        )
    sys.stderr.writelines(f"{row.note}\n" for row in rows if row.note)
    sys.stderr.writelines(f"{end.note}\n" for end in ends if end.urgent or end.expires)
    return int(any(row.state != "Running" for row in rows))


def _credential(end: credentials.End) -> dict[str, object]:
    return {
        "file": end.credential.credential_file,
        "url": end.credential.api_url,
        "expires": end.expires or None,
        "urgent": end.urgent,
        "note": end.note,
    }


def table(rows: list[tuple[str, ...]]) -> str:
    """Format rows in columns, separated by three spaces, as kubectl does."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)
