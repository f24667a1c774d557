"""The credentials that this host's nodes get their keys with, and when they end: no pod gets a key after that."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from ..config import load_config
from ..control import Refused, Unavailable, select
from ..install.record import Installation
from ..state.attachments import Attachments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..control import Lifetime
    from ..state.attachments import Attachment


DAY = 86400.0
SOON = 14 * DAY
"""What is left, in seconds, when a person should make another one."""


class Credential(NamedTuple):
    """What a control plane's API is asked with, as attachments record it."""

    minter: str
    credential_file: str
    api_url: str
    headscale_user: str = ""
    auth_key_seconds: int = 600

    @classmethod
    def of(cls, attachment: Attachment) -> Credential:
        """An attachment's."""
        return cls(attachment.minter, attachment.credential_file, attachment.api_url)


class End(NamedTuple):
    """When a credential ends, as people see it."""

    credential: Credential
    expires: str = ""
    """RFC 3339; empty: it does not, or nobody could be asked."""
    note: str = ""
    """What a person should know and do."""
    urgent: bool = False
    """Whether it has ended, or will soon."""


def in_use(state_dir: str) -> list[Credential]:
    """Those of an API that the nodes of a host have, and the one that is configured for the next."""
    found = {Credential.of(attachment): None for attachment in Attachments(state_dir).all()}
    found |= dict.fromkeys(_configured(state_dir))
    return [credential for credential in found if credential.minter != "static"]


def _configured(state_dir: str) -> Iterator[Credential]:
    with contextlib.suppress(errors.Error):  # a configuration that cannot be read is what 'config' is for
        installed = Installation.load(state_dir)
        if installed:
            chosen = select.choice(load_config(installed.entry))
            yield Credential(chosen["minter"], chosen["credential_file"], chosen.get("api_url", ""))


def end(credential: Credential, seconds: float) -> End:
    """Ask its control plane, for no longer than that. One that is away says nothing, and is no error."""
    try:
        plane = select.control_plane(credential, seconds)
        lifetime = plane.lifetime() if plane else None
    except Refused as e:
        return End(credential, note=f"{credential.api_url}: {e.reason}. {e.advice}", urgent=True)
    except errors.NoAuthKey as e:
        return End(credential, note=f"{e}. {e.advice}", urgent=True)
    except Unavailable as e:
        return End(
            credential, note=f"{credential.api_url} did not say when its credential expires: {e.reason}"
        )
    return _end(credential, lifetime) if lifetime else End(credential)


def _end(credential: Credential, lifetime: Lifetime) -> End:
    when = time.gmtime(lifetime.ends)
    file, day = credential.credential_file, time.strftime("%Y-%m-%d", when)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    if lifetime.left >= SOON:
        return End(credential, expires, f"The credential in {file} expires on {day}.")
    days = max(0, int(lifetime.left / DAY))
    left = f"in {days} days" if days > 1 else "within two days"
    what = f"The credential in {file} expires on {day}, {left}. After that no pod gets an auth key. {lifetime.advice}"
    return End(credential, expires, what, urgent=True)
