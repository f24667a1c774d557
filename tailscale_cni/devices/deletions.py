"""What the control plane is told of a node besides its key: other tags, and that it is no more.

Only of the node that was recorded: its ID **and** its node key have to be the recorded ones, never a name. With a static key there
is nobody to tell it to: then the server's own time-out, or a person, does it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..control import Refused, Unavailable
from ..state import files
from ..state.outbox import Farewell, Outbox
from . import delivery
from .known import note_path
from .lookup import SECONDS, plane_of

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from ..state.identities import Identity


def owe(attachment: Attachment) -> None:
    """Write down that the attachment's node is to be forgotten, unless it has said so itself."""
    words = files.read(note_path(attachment)).split()
    if len(words) == 2 and attachment.minter != "static":
        Outbox(attachment.state_dir).post(Farewell.of(attachment, *words))


def owe_identity(attachment: Attachment, identity: Identity) -> None:
    """The same, of an identity that the attachment had, or has found."""
    said = farewell(attachment, identity)
    if said:
        Outbox(attachment.state_dir).post(said)


def farewell(attachment: Attachment, identity: Identity) -> Farewell | None:
    """What there is to say of it; None where there is nobody to say it to, or of."""
    is_known = identity.node_id and identity.control_url == attachment.control_url
    if not is_known or attachment.minter == "static":
        return None
    return Farewell.of(attachment, identity.node_id, identity.node_key)


def deliver_soon(state_dir: str) -> None:
    """Say what was not said yet, in a child that nobody waits for; nothing if all has been said."""
    if any(Outbox(state_dir).all()):
        linux.detach(lambda: deliver(state_dir))


def deliver(state_dir: str, seconds: float = delivery.DELIVERY) -> None:
    """Say all of it, again and again for a while; one process at a time does."""
    outbox = Outbox(state_dir)
    delivery.deliver(outbox.root, "the outbox", lambda: _say_all(outbox), seconds)


def _say_all(outbox: Outbox) -> int:
    """How many are there after that: who has just posted one has found us at it."""
    for farewell in outbox.all():
        if _say(farewell):
            outbox.said(farewell)
    return sum(1 for _ in outbox.all())


def _say(farewell: Farewell) -> bool:
    """Whether the control plane knows by now. What it refuses is said again: a person may mend it."""
    try:
        plane = plane_of(farewell, farewell, SECONDS)
        if plane:
            plane.delete(farewell.node_id)
    except (Refused, Unavailable, errors.NoAuthKey) as e:
        os.write(2, f"{farewell.who}: node {farewell.node_id} cannot be deleted: {e}\n".encode())
        return False
    return True
