"""Control planes: who mints auth keys, and knows the devices of a tailnet.

Must not know what a pod is, nor where state is. What a control plane answers is hostile until parsed. Nothing here is kept: a
token lives as long as the object that asked for it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AuthKey:
    """An auth key that does not show itself: not in a traceback, not in a log."""

    def __init__(self, secret: str) -> None:
        """``secret`` is what the control plane takes."""
        self._secret = secret

    def __repr__(self) -> str:
        """Never the key."""
        return "AuthKey(…)"

    def reveal(self) -> str:
        """The key itself, for the pipe to the worker."""
        return self._secret


class Refused(Exception):
    """The control plane said no, and will say so again until a person does something: ``advice``."""

    def __init__(self, reason: str, advice: str) -> None:
        """Both are printable: what is foreign in them went through ``errors.show``."""
        super().__init__(reason)
        self.reason, self.advice = reason, advice


class Unavailable(Exception):
    """There is no answer that one can use; later there may be one.

    ``reached`` says whether the question may have arrived: then something may have come of it. ``retry_after`` is what the
    control plane asked to be given, in seconds.
    """

    def __init__(self, reason: str, advice: str = "", *, reached: bool, retry_after: float = 0.0) -> None:
        """As for Refused; ``advice`` is empty where waiting is all that there is to do."""
        super().__init__(reason)
        self.reason, self.advice = reason, advice
        self.reached, self.retry_after = reached, retry_after


class Lifetime(NamedTuple):
    """How long a credential lives: until ``ends``, in seconds since the epoch."""

    ends: float
    left: float
    """Seconds from now, by the control plane's clock."""
    advice: str
    """How to make another one."""


class Device(NamedTuple):
    """A node of the tailnet, as an API shows it; what it does not say is empty. Times are RFC 3339."""

    node_id: str
    node_key: str
    """``nodekey:…``: a control plane that was restored from elsewhere gives old IDs to other nodes."""
    name: str
    """What it is called in MagicDNS, without the domain."""
    hostname: str
    """What it calls itself."""
    addresses: tuple[str, ...]
    tags: tuple[str, ...]
    ephemeral: bool
    online: bool
    last_seen: str
    expiry: str


class Minter(Protocol):
    """A control plane, as far as keys go."""

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:
        """An auth key for one node.

        Raises NoAuthKey, which says what a person has to do about a file; Refused, Unavailable.
        """


class ControlPlane(Minter, Protocol):
    """A control plane with an API. Every method raises NoAuthKey (of its credential), Refused, Unavailable."""

    def lifetime(self) -> Lifetime | None:
        """How long the credential itself lives; None if it does not end."""

    def devices(self) -> tuple[Device, ...]:
        """All nodes of the tailnet."""

    def device(self, node_id: str) -> Device | None:
        """One of them; None if there is none of that ID."""

    def rename(self, node_id: str, name: str) -> None:
        """Give a node another name: a DNS label."""

    def set_tags(self, node_id: str, tags: tuple[str, ...]) -> None:
        """Give a node these tags, and no others."""

    def delete(self, node_id: str) -> None:
        """Remove a node; one that is not there is removed."""


def is_same(device: Device | None, node_key: str) -> bool:
    """Whether a device is the one that was recorded: whoever changes or deletes one asks this first.

    An ID alone proves nothing: Headscale's are 1, 2, 3, and after a restore 7 is somebody's laptop.
    """
    return device is not None and bool(node_key) and device.node_key == node_key


def as_auth_key(value: object, limit: int = 512) -> AuthKey:
    """The key in an answer: printable ASCII without spaces, as it goes down the pipe. Raises Unavailable."""
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isprintable()
        or not 0 < len(value) <= limit
        or " " in value
    ):
        raise Unavailable("its answer has no auth key in it", reached=True)
    return AuthKey(value)
