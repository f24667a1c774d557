"""When the credential of an API expires. After that, no pod gets an auth key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from . import Refused, Unavailable, select

if TYPE_CHECKING:
    from . import Lifetime
    from .select import ApiRef

DAY = 86400.0
SOON = 14 * DAY
"""Seconds before a credential expires in which a person should replace it."""


class Expiry(NamedTuple):
    """When a credential expires, as text for people."""

    api: ApiRef
    expires: str = ""
    """RFC 3339; empty if the credential does not expire, or if the API does not answer."""
    note: str = ""
    """The facts for a person, and what to do."""
    urgent: bool = False
    """Whether the credential has expired or does not work, or will expire soon."""


def ask(api: ApiRef, seconds: float) -> Expiry:
    """Ask the control plane, for at most ``seconds``. A control plane that is down is a note, not an error."""
    try:
        plane = select.control_plane(api, seconds)
        lifetime = plane.lifetime() if plane else None
    except Refused as e:
        return Expiry(api, note=f"{api.api_url}: {e.reason}. {e.advice}", urgent=True)
    except errors.NoAuthKey as e:
        return Expiry(api, note=f"{e}. {e.advice}", urgent=True)
    except Unavailable as e:
        return Expiry(api, note=f"{api.api_url} did not say when its credential expires: {e.reason}")
    return _expiry(api, lifetime) if lifetime else Expiry(api)


def _expiry(api: ApiRef, lifetime: Lifetime) -> Expiry:
    when = time.gmtime(lifetime.ends)
    file, day = api.credential_file, time.strftime("%Y-%m-%d", when)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    if lifetime.left >= SOON:
        return Expiry(api, expires, f"The credential in {file} expires on {day}.")
    days = max(0, int(lifetime.left / DAY))
    left = f"in {days} days" if days > 1 else "within two days"
    what = f"The credential in {file} expires on {day}, {left}. After that no pod gets an auth key. {lifetime.advice}"
    return Expiry(api, expires, what, urgent=True)
