"""Deleting devices from the tailnet: a deletion is first queued on disk, then delivered by a detached child.

A device is deleted only if its node ID and its node key are the recorded ones. With a static key, there is no API for deletions. The
control plane's time-out then removes ephemeral nodes, and a person has to delete the others.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..control import Refused, Unavailable
from ..state import files
from ..state.outbox import Deletion, Outbox
from . import delivery
from .known import note_path
from .lookup import SECONDS, plane_of

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from ..state.identities import Identity


def queue(attachment: Attachment) -> None:
    """Queue the deletion of the attachment's device, unless the node has logged out."""
    words = files.read(note_path(attachment)).split()
    if len(words) == 2 and attachment.minter != "static":
        Outbox(attachment.state_dir).add(Deletion.of(attachment, *words))


def queue_identity(attachment: Attachment, identity: Identity) -> None:
    """Queue the deletion of an identity's device. The attachment had the identity, or found it retained."""
    deletion = deletion_of(attachment, identity)
    if deletion:
        Outbox(attachment.state_dir).add(deletion)


def deletion_of(attachment: Attachment, identity: Identity) -> Deletion | None:
    """The deletion of an identity's device; None if the identity has no device, or if no API can delete it."""
    is_known = identity.node_id and identity.node_key and identity.control_url == attachment.control_url
    if not is_known or attachment.minter == "static":
        return None
    return Deletion.of(attachment, identity.node_id, identity.node_key)


def deliver_soon(state_dir: str) -> None:
    """Deliver the queued deletions in a detached child, if there are any."""
    if any(Outbox(state_dir).all()):
        linux.detach(lambda: deliver(state_dir))


def deliver(state_dir: str, seconds: float = delivery.DELIVERY_TIMEOUT) -> None:
    """Deliver the queued deletions, with retries for ``seconds``, unless another process is doing so."""
    outbox = Outbox(state_dir)
    delivery.deliver(outbox.root, "the outbox", lambda: _delete_all(outbox), seconds)


def _delete_all(outbox: Outbox) -> int:
    """Try each queued deletion once. Returns how many are queued afterwards, including new ones."""
    for name, deletion in outbox.items():
        if _delete(deletion):
            outbox.done(name)
    return sum(1 for _ in outbox.all())


def _delete(deletion: Deletion) -> bool:
    """Delete a device; return whether it is gone. A refused deletion is retried, because a person may remove the cause."""
    try:
        plane = plane_of(deletion, deletion, SECONDS)
        if plane:
            plane.delete(deletion.node_id)
    except (Refused, Unavailable, errors.NoAuthKey, ValueError) as e:  # a URL of the record can be invalid
        os.write(2, f"{deletion.who}: node {deletion.node_id} cannot be deleted: {e}\n".encode())
        return False
    return True
