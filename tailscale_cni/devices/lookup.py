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
"""The time limit for the calls of a control plane's API, in seconds."""


def plane_of(
    owner: Attachment | Deletion, device: Deletion | Identity | Node, seconds: float
) -> ControlPlane | None:
    """The control plane of a device, to change or delete the device there. Raises Refused, Unavailable, NoAuthKey.

    Returns None if the control plane has no device with this ID and node key, or if there is no API.
    """
    plane = select.control_plane(select.ApiRef.of(owner), seconds)
    return plane if plane and is_same(plane.device(device.node_id), device.node_key) else None
