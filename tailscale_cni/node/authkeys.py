"""Auth keys: which control plane makes them, how often it may be asked, and what a person can do when it does not.

Nothing of a key is kept: it goes from the answer to the pipe of the one worker that it was made for.
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
"""How long a control plane has to make a key, where no pod waits for it."""

TURN = 5.0
"""How long one waits for one's turn then."""


def mint(attachment: Attachment, seconds: float) -> AuthKey:
    """An auth key for a node, made for this call and given to nobody else; a static one is what it is.

    Raises NoAuthKey, ControlRefused (a person has to do something), ControlUnavailable (later).
    """
    linux.disable_core_dumps()
    plane = control_plane(ApiRef.of(attachment), seconds)
    if plane is None:
        return _make(StaticKey(attachment.credential_file), attachment)
    with explained(attachment), _patiently(attachment):
        return _make(plane, attachment)


def mint_in_turn(attachment: Attachment) -> AuthKey:
    """The same, where no pod waits: with time for an answer, and for one's turn if that comes soon."""
    try:
        return mint(attachment, SECONDS)
    except errors.ControlUnavailable as e:
        if not 0 < e.again <= TURN:
            raise
        time.sleep(e.again)
    return mint(attachment, SECONDS)


def reset_backoff(attachment: Attachment) -> None:
    """A node is on the tailnet: the key that it needs next, should it need one, is the first again."""
    if attachment.minter != "static":
        Backoff(attachment.run_dir).connected(_who(attachment))


def _make(minter: StaticKey | ControlPlane, attachment: Attachment) -> AuthKey:
    return minter.mint(hostname=attachment.hostname, tags=attachment.tags, ephemeral=attachment.ephemeral)


def _who(attachment: Attachment) -> str:
    """Whose patience it is. A pod's that fails is tried again in another sandbox, as another container of the same pod."""
    return attachment.pod_uid or attachment.id


@contextlib.contextmanager
def _patiently(attachment: Attachment) -> Iterator[None]:
    """Ask when it is time to, and take note of what came of it. Raises Unavailable when it is not."""
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
    except (Refused, errors.NoAuthKey):  # the latter is a file of ours
        backoff.refused(who)
        raise
    backoff.answered()


@contextlib.contextmanager
def explained(attachment: Attachment) -> Iterator[None]:
    """What a control plane says, as errors that name the pod: ControlRefused, ControlUnavailable."""
    try:
        yield
    except Refused as e:
        raise errors.ControlRefused(
            pod=attachment.who, url=attachment.api_url, reason=e.reason, advice=e.advice
        ) from None
    except Unavailable as e:
        raise errors.ControlUnavailable(
            pod=attachment.who,
            url=attachment.api_url,
            reason=e.reason,
            advice=e.advice
            or "The request is retried automatically. Check that the control plane is up and reachable from this host.",
            again=float(e.retry_after),
        ) from None


def why_not_connected(attachment: Attachment, state: str) -> str:
    """What a person can do about a node that has not come further than this state of the backend (ipn.State)."""
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
