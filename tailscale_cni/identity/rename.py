"""The name of an ephemeral node among those of other hosts, which no host knows of.

In a rolling update the old pod may be on another host: its node is still called ``web`` when the new one registers, and the control plane
calls that ``web-1``. When the old one is gone, nobody but the new one's host can say that it is to be ``web``.
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


AFTER_A_CALL = 10.0
"""After the control plane was asked: at least this, and a third of the pod's age. Who has the name may be nobody that we see."""


def seek(attachment: Attachment) -> float:
    """Have the control plane call the node what it should be called, once that is free: seconds until the next time, 0 if there is none.

    A name that somebody else has stays his: what the control plane refuses, or gives a number, is looked at again while the pod is young.
    """
    from ..worker.localapi import LocalApi

    try:
        node = LocalApi.of(attachment).node(peers=True)
    except errors.LocalApiFailed:  # it is being started again
        return handover.MIN_LOOK_INTERVAL
    called, _, domain = node.name.partition(".")
    if called == attachment.hostname or not handover.may_move(attachment):
        return 0
    if not domain or f"{attachment.hostname}.{domain}" in node.peer_names:
        return handover.seconds_to_next_look(attachment)  # it costs the control plane nothing
    _rename(attachment, node)
    return max(AFTER_A_CALL, handover.age(attachment) / 3)


def _rename(attachment: Attachment, node: Node) -> None:
    if not known.is_its_own(attachment, node):
        return
    with contextlib.suppress(Refused, Unavailable, errors.NoAuthKey):
        plane = lookup.plane_of(attachment, node, lookup.SECONDS)
        if plane:
            plane.rename(node.node_id, attachment.hostname)
