"""Renaming an ephemeral node when its hostname becomes free.

In a rolling update, the old pod may be on another host. Its node is still called ``web`` when the new node registers, so the control plane
calls the new node ``web-1``. When the old node is gone, the new node's host has the control plane rename it to ``web``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors
from ..control import Refused, Unavailable
from ..devices import known, lookup
from . import handover

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from ..worker.localapi import Node


MIN_RETRY_INTERVAL = 10.0
"""Seconds between two renames, or a third of the pod's age if that is longer. This node may not see the device that has the hostname."""


def seek(attachment: Attachment) -> float:
    """Rename the node's device to the attachment's hostname, if no peer has that hostname.

    Returns the seconds until the next check, 0 for none. A hostname that another device uses is never taken: the control plane refuses the
    name or adds a number. While the pod is young, the check is repeated.
    """
    from ..worker.localapi import LocalApi

    try:
        node = LocalApi.of(attachment).node(peers=True)
    except errors.LocalApiFailed:  # the supervisor restarts the worker
        return handover.MIN_LOOK_INTERVAL
    called, _, domain = node.name.partition(".")
    if called == attachment.hostname or not handover.may_move(attachment):
        return 0
    if not domain or f"{attachment.hostname}.{domain}" in node.peer_names:
        return handover.seconds_to_next_look(attachment)  # this check needs no control plane
    _rename(attachment, node)
    return max(MIN_RETRY_INTERVAL, handover.age(attachment) / 3)


def _rename(attachment: Attachment, node: Node) -> None:
    if not known.is_its_own(attachment, node):
        return
    with contextlib.suppress(Refused, Unavailable, errors.NoAuthKey):
        plane = lookup.plane_of(attachment, node, lookup.SECONDS)
        if plane:
            plane.rename(node.node_id, attachment.hostname)
