"""Renaming an ephemeral node once the hostname that it should have is free.

In a rolling update the old pod may be on another host. Its node is still called ``web`` when the new node registers, so the control plane
calls the new one ``web-1``. When the old node is gone, only the new one's host can have it renamed to ``web``.
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
"""Seconds after a call of the control plane, or a third of the pod's age if that is longer. The device that has the hostname may be one
that this node cannot see."""


def seek(attachment: Attachment) -> float:
    """Rename the node's device to the hostname that it should have, if no peer has that.

    Returns the seconds until the next look, 0 if none is needed. A hostname that another device uses is never taken: the control plane
    refuses it or adds a number, and the node looks again while the pod is young.
    """
    from ..worker.localapi import LocalApi

    try:
        node = LocalApi.of(attachment).node(peers=True)
    except errors.LocalApiFailed:  # its supervisor starts it again
        return handover.MIN_LOOK_INTERVAL
    called, _, domain = node.name.partition(".")
    if called == attachment.hostname or not handover.may_move(attachment):
        return 0
    if not domain or f"{attachment.hostname}.{domain}" in node.peer_names:
        return handover.seconds_to_next_look(attachment)  # a look at the node's peers asks no control plane
    _rename(attachment, node)
    return max(MIN_RETRY_INTERVAL, handover.age(attachment) / 3)


def _rename(attachment: Attachment, node: Node) -> None:
    if not known.is_its_own(attachment, node):
        return
    with contextlib.suppress(Refused, Unavailable, errors.NoAuthKey):
        plane = lookup.plane_of(attachment, node, lookup.SECONDS)
        if plane:
            plane.rename(node.node_id, attachment.hostname)
