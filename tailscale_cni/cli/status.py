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
from ..control import expiry, select
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
"""Seconds that a control plane has to report when its credential expires."""


@dataclass(frozen=True)
class Row:
    """One node: a row of the table, and an item of the JSON output."""

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
    """What the admin should know and do; usually empty."""

    @classmethod
    def of(cls, attachment: Attachment) -> Row:
        """The row of an attachment's node. If the node does not answer, the state says so.

        Peers are requested only if the node has active ones, because listing hundreds takes a megabyte of memory per node, and seconds on
        a host with hundreds of nodes.
        """
        try:
            node = LocalApi.of(attachment, ANSWER_SECONDS).node(peers=launch.has_active_peers(attachment))
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
            state, deleted = "Deleted", errors.NodeDeleted(pod=attachment.display_name)
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
        """The cells in the order of ``HEADERS``. An empty value is ``-``, so that every column has a cell."""
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
    """Print one row per node, then notes on standard error. Returns 1 if a node is not running."""
    wanted = [a for a in Attachments(arguments.state_dir).all() if arguments.namespace in (None, a.namespace)]
    apis = credentials.in_use(arguments.state_dir)
    for api in apis:  # imports what a process that is forked beside other threads must not wait for
        select.control_plane(api, CONTROL_SECONDS)
    with ThreadPoolExecutor(max_workers=32) as pool:
        asked = pool.map(partial(expiry.ask, seconds=CONTROL_SECONDS), apis)
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


def _credential(end: expiry.Expiry) -> dict[str, object]:
    return {
        "file": end.api.credential_file,
        "url": end.api.api_url,
        "expires": end.expires or None,
        "urgent": end.urgent,
        "note": end.note,
    }


def table(rows: list[tuple[str, ...]]) -> str:
    """A text table. Columns are as wide as their widest cell, with three spaces between, like kubectl's."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)
