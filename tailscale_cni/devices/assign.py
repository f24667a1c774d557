"""Setting a device's tags and name at the control plane before the node's processes start."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors
from ..control import Refused, Unavailable
from ..policy import tailed
from ..state import identities
from ..state.hostnames import Hostname
from ..state.identities import Identity
from .lookup import SECONDS, plane_of

if TYPE_CHECKING:
    from ..state.attachments import Attachment


RENAME_TIMEOUT = 3.0
"""The longest wait of an ephemeral pod for the hostname of a retained node, in seconds."""


def prepare(attachment: Attachment, seconds: float = SECONDS) -> None:
    """Set the tags and the name of a retained node's device, or free an ephemeral node's hostname if a retained node's device has it.

    Call this before the node's processes start. Waits for the control plane for at most ``seconds``.
    """
    if attachment.ephemeral:
        make_way(attachment)
    else:
        apply(attachment, min(seconds, SECONDS))


def apply(attachment: Attachment, seconds: float) -> None:
    """Give a retained node's device the tags that its pod wants now, and its hostname if the device was renamed aside.

    If the tags cannot be set, the node's keys are dropped later (``handover.drop_mismatched_keys``), and the node registers anew.
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
    """Rename a retained node's device aside if an ephemeral pod has its number now. The device gets the name back when its pod returns.

    Without an API, the retained device keeps the name, and the control plane gives the ephemeral node a number.
    """
    kept = Hostname.of(attachment).retained(attachment.number)
    if not kept:
        return
    known = Identity.load(attachment.state_dir, kept)
    if not known.node_id or known.control_url != attachment.control_url or _is_aside(known):
        return
    name = tailed(attachment.hostname, _aside_tail(known))
    try:
        plane = plane_of(attachment, known, RENAME_TIMEOUT)
        if plane:
            _named(known, name).save(attachment.state_dir)  # first, or a crash leaves it aside for ever
            plane.rename(known.node_id, name)
    except (Refused, Unavailable, errors.NoAuthKey):
        known.save(attachment.state_dir)


def _is_aside(identity: Identity) -> bool:
    """Whether an identity's device was renamed aside."""
    return identity.name.partition(".")[0].endswith(_aside_tail(identity))


def _aside_tail(identity: Identity) -> str:
    return f"-kept-{identity.key[:6]}"


def _named(identity: Identity, name: str) -> Identity:
    _, dot, domain = identity.name.partition(".")
    return identity._replace(name=f"{name}{dot}{domain}")
