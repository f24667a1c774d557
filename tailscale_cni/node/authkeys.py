"""Auth keys: request them from the control plane, limit the rate of requests, and say what a person can do after a failure.

A key is not stored. It goes from the control plane's answer to the pipe of the one worker that it was created for.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .. import errors, linux
from ..control import Refused, Unavailable
from ..control.select import ApiRef, control_plane
from ..control.static import StaticKey
from ..state.backoff import Backoff, TooSoon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..control import AuthKey, ControlPlane
    from ..state.attachments import Attachment


SECONDS = 20.0
"""The time limit for a key request while no pod waits for it, in seconds."""

TURN = 5.0
"""The longest backoff, in seconds, that such a request waits for."""


def mint(attachment: Attachment, seconds: float) -> AuthKey:
    """An auth key for a node: created for this call only, or the static key.

    Raises NoAuthKey, ControlRefused (a person has to do something), ControlUnavailable (a later call may succeed).
    """
    linux.disable_core_dumps()
    plane = control_plane(ApiRef.of(attachment), seconds)
    if plane is None:
        return _make(StaticKey(attachment.credential_file), attachment)
    with explained(attachment), _patiently(attachment):
        return _make(plane, attachment)


def mint_in_turn(attachment: Attachment) -> AuthKey:
    """``mint`` for a node whose pod does not wait: with a longer time limit, and a second attempt after a short backoff."""
    try:
        return mint(attachment, SECONDS)
    except errors.ControlUnavailable as e:
        if not 0 < e.again <= TURN:
            raise
        time.sleep(e.again)
    return mint(attachment, SECONDS)


def reset_backoff(attachment: Attachment) -> None:
    """Reset the backoff of a pod whose node is on the tailnet, so that its next key request counts as the first."""
    if attachment.minter != "static":
        Backoff(attachment.run_dir).connected(_who(attachment))


def _make(minter: StaticKey | ControlPlane, attachment: Attachment) -> AuthKey:
    return minter.mint(hostname=attachment.hostname, tags=attachment.tags, ephemeral=attachment.ephemeral)


def _who(attachment: Attachment) -> str:
    """The name for the backoff: the pod's UID, because kubelet retries a failed pod with another sandbox, and so another container ID."""
    return attachment.pod_uid or attachment.id


@contextlib.contextmanager
def _patiently(attachment: Attachment) -> Iterator[None]:
    """Check and update the backoff of a request, which the body makes. Raises Unavailable if it is too soon."""
    backoff, who = Backoff(attachment.run_dir), _who(attachment)
    try:
        backoff.begin(who)
    except TooSoon as e:
        reason = f"earlier requests failed; the next attempt is in {e.seconds:.0f} s"
        raise Unavailable(reason, reached=False, retry_after=e.seconds) from None
    try:
        yield
    except Unavailable as e:
        if e.reached or e.retry_after:
            backoff.unanswered(e.retry_after)
        else:
            backoff.unreached(who)
        raise
    except (Refused, errors.NoAuthKey):  # NoAuthKey is about a file on this host
        backoff.refused(who)
        raise
    backoff.answered()


@contextlib.contextmanager
def explained(attachment: Attachment) -> Iterator[None]:
    """Turn the control plane's errors into errors that name the pod: ControlRefused, ControlUnavailable."""
    try:
        yield
    except Refused as e:
        raise errors.ControlRefused(
            pod=attachment.display_name, url=attachment.api_url, reason=e.reason, advice=e.advice
        ) from None
    except Unavailable as e:
        raise errors.ControlUnavailable(
            pod=attachment.display_name,
            url=attachment.api_url,
            reason=e.reason,
            advice=e.advice
            or "The request is retried automatically. Check that the control plane is up and reachable from this host.",
            again=float(e.retry_after),
        ) from None


def why_not_connected(attachment: Attachment, state: str) -> str:
    """Advice for a person about a node that is stuck in this state of the backend (ipn.State)."""
    if state == "NeedsMachineAuth":
        return (
            "The tailnet requires device approval: approve the device in the admin console, or use a pre-approved auth key (an OAuth "
            "client creates pre-approved keys)."
        )
    if attachment.minter == "static" and state in ("NeedsLogin", "NoState", ""):
        return (
            f"If its log ({attachment.log}) says that the key expired or was used, write a new, reusable auth key to "
            f"{attachment.credential_file}."
        )
    return f"Check the control plane, the auth key, and the node's log ({attachment.log})."
