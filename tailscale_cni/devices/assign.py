"""The tags and the name that a device should have, set at the control plane before its processes start."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors
from ..control import Refused, Unavailable
from ..policy import tailed
from ..state import identities
from ..state.identities import Identity
from ..state.names import Name
from .lookup import SECONDS, plane_of

if TYPE_CHECKING:
    from ..state.attachments import Attachment


NAME_SECONDS = 3.0
"""How long an ephemeral pod waits, at most, for the name of one that is only kept."""


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
