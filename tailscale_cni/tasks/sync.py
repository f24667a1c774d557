"""``sync``: give the pod's interface the node's current addresses and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..devices import assign, deletions
from ..identity import handover
from ..node import configure
from ..worker import launch
from ..worker.localapi import LocalApi
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment


def run(attachment: Attachment, _deleted: bool) -> int:  # noqa: FBT001
    """Configure addresses and routes, unless the record names another node or build."""
    current = handover.apply_assignment(attachment)
    if current is None:
        return exits.GONE
    if current.lost or not launch.matches_record(current):
        assign.prepare(current)  # the old node still runs, so no pod waits for this
        return exits.MOVED
    node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
    if node.addressed:
        configure.synchronise(attachment, node)
    deletions.deliver_soon(attachment.state_dir)
    return exits.DONE
