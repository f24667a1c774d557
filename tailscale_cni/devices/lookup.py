"""A device of the control plane, found by node ID and node key, never by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..control import is_same, select

if TYPE_CHECKING:
    from ..control import ControlPlane
    from ..state.attachments import Attachment
    from ..state.identities import Identity
    from ..state.outbox import Deletion
    from ..worker.localapi import Node


SECONDS = 10.0
"""For one call of a control plane's API."""


def plane_of(
    owner: Attachment | Deletion, device: Deletion | Identity | Node, seconds: float
) -> ControlPlane | None:
    """The control plane, to change or delete that very device there; None if it has none of that ID and node key, or there is no API.

    Raises Refused, Unavailable, NoAuthKey.
    """
    plane = select.control_plane(select.ApiRef.of(owner), seconds)
    return plane if plane and is_same(plane.device(device.node_id), device.node_key) else None
