"""What the control plane is told of a node besides its key: other tags, and that it is no more.

Only of the node that was recorded: its ID **and** its node key have to be the recorded ones, never a name. With a static key there
is nobody to tell it to: then the server's own time-out, or a person, does it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..control import Refused, Unavailable, is_same, select
from ..control.select import ApiRef
from ..policy import tailed
from ..state import files, identities, node_keys
from ..state.identities import Identity
from ..state.names import Name
from ..state.outbox import Farewell, Outbox
from . import delivery

if TYPE_CHECKING:
    from ..control import ControlPlane
    from ..state.attachments import Attachment
    from ..worker.localapi import Node

SECONDS = 10.0
"""How long one call of an API may take here."""

NAME_SECONDS = 3.0
"""How long an ephemeral pod waits, at most, for the name of one that is only kept."""


def note(attachment: Attachment, node: Node) -> None:
    """Remember who the node is, to tell the control plane of it when nobody can ask it any more. Of another one it says so in vain."""
    if not node.node_id or (attachment.minter == "static" and not attachment.identity):
        return
    words = f"{node.node_id} {node.node_key}\n"
    if files.read(_note(attachment)) != words and not is_its_own(attachment, node):
        return
    if attachment.minter != "static":
        files.write_volatile(_note(attachment), words.encode())
    if attachment.identity:
        known = Identity.load(attachment.state_dir, attachment.key)
        now = known._replace(
            node_id=node.node_id,
            node_key=node.node_key,
            name=node.name,
            addresses=tuple(map(str, node.addresses)),
        )
        if now != known:
            now.save(attachment.state_dir)


def is_its_own(attachment: Attachment, node: Node) -> bool:
    """Whether a worker has the key of the device that it says it is."""
    return bool(node.node_key) and node.node_key == node_keys.of(attachment.identity_dir)


def forgotten(attachment: Attachment) -> None:
    """The control plane knows that the node is no more: nobody has to tell it."""
    files.remove(_note(attachment))


def owe(attachment: Attachment) -> None:
    """Write down that the attachment's node is to be forgotten, unless it has said so itself."""
    words = files.read(_note(attachment)).split()
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


def plane_of(
    owner: Attachment | Farewell, device: Farewell | Identity | Node, seconds: float
) -> ControlPlane | None:
    """The control plane, to change or delete that very device there; None if it has none of that ID and node key, or there is no API.

    Raises Refused, Unavailable, NoAuthKey.
    """
    plane = select.control_plane(ApiRef.of(owner), seconds)
    return plane if plane and is_same(plane.device(device.node_id), device.node_key) else None


def prepare(attachment: Attachment, seconds: float = SECONDS) -> None:
    """Before its processes begin: have the control plane know the node, or the one that is in its way, as it should be by now.

    That waits for it for ``seconds`` at most.
    """
    if attachment.ephemeral:
        make_way(attachment)
    else:
        retag(attachment, min(seconds, SECONDS))


def retag(attachment: Attachment, seconds: float) -> None:
    """Give a node that is kept the tags that its pod wants by now, and the name if it gave that away, at the control plane that it is of.

    Where it cannot have the tags, its keys are no use any more (``identities.fit``): it registers anew.
    """
    known = Identity.load(attachment.state_dir, attachment.key)
    if not (known.node_id and identities.is_registered(attachment.state_dir, attachment.key)):
        return
    tagged, aside = set(known.tags) == set(attachment.tags), _is_aside(known)
    if known.control_url != attachment.control_url or (tagged and not aside):
        return
    with contextlib.suppress(Refused, Unavailable, errors.NoAuthKey):
        plane = plane_of(attachment, known, seconds)
        if not plane:
            return
        if not tagged:
            plane.set_tags(known.node_id, attachment.tags)
            known = known._replace(tags=attachment.tags)
            known.save(attachment.state_dir)
        if aside:
            plane.rename(known.node_id, attachment.hostname)
            _named(known, attachment.hostname).save(attachment.state_dir)


def make_way(attachment: Attachment) -> None:
    """Let a node that is only kept give its name away to an ephemeral one that has its number now; it has it again when it comes back.

    Where nobody can be told to, the ephemeral one is called like a second one.
    """
    kept = Name.of(attachment).kept(attachment.number)
    if not kept:
        return
    known = Identity.load(attachment.state_dir, kept)
    if not known.node_id or known.control_url != attachment.control_url or _is_aside(known):
        return
    name = tailed(attachment.hostname, _aside_tail(known))
    try:
        plane = plane_of(attachment, known, NAME_SECONDS)
        if plane:
            _named(known, name).save(attachment.state_dir)  # first: or it could be away for ever
            plane.rename(known.node_id, name)
    except (Refused, Unavailable, errors.NoAuthKey):
        known.save(attachment.state_dir)


def _is_aside(identity: Identity) -> bool:
    """Whether it gave its name away."""
    return identity.name.partition(".")[0].endswith(_aside_tail(identity))


def _aside_tail(identity: Identity) -> str:
    return f"-kept-{identity.key[:6]}"


def _named(identity: Identity, name: str) -> Identity:
    _, dot, domain = identity.name.partition(".")
    return identity._replace(name=f"{name}{dot}{domain}")


def _note(attachment: Attachment) -> str:
    return f"{attachment.worker_dir}/node"
