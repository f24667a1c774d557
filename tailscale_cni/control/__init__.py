"""Control planes: they create auth keys, and list and change the devices of a tailnet.

This package must not know what a pod is, nor where state is. A control plane's answers are not trusted. Nothing is stored: a token
lives as long as the object that requested it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AuthKey:
    """An auth key that does not appear in tracebacks and logs."""

    def __init__(self, secret: str) -> None:
        """``secret`` is the key itself."""
        self._secret = secret

    def __repr__(self) -> str:
        """A placeholder, without the key."""
        return "AuthKey(…)"

    def reveal(self) -> str:
        """The key itself, for the pipe to the worker."""
        return self._secret


class Refused(Exception):
    """The control plane refused a request, and will refuse it until a person follows ``advice``."""

    def __init__(self, reason: str, advice: str) -> None:
        """Both are printable: text of the control plane in them went through ``errors.show``."""
        super().__init__(reason)
        self.reason, self.advice = reason, advice


class Unavailable(Exception):
    """There is no usable answer; a later attempt may succeed.

    ``reached`` is whether the request may have reached the control plane, and so may have had an effect. ``retry_after`` is the delay
    that the control plane asked for, in seconds.
    """

    def __init__(self, reason: str, advice: str = "", *, reached: bool, retry_after: float = 0.0) -> None:
        """As for Refused. ``advice`` is empty if waiting is all that helps."""
        super().__init__(reason)
        self.reason, self.advice = reason, advice
        self.reached, self.retry_after = reached, retry_after


class Lifetime(NamedTuple):
    """How long a credential lives: until ``ends``, in seconds since the epoch."""

    ends: float
    left: float
    """Seconds from now, by the control plane's clock."""
    advice: str
    """How to create a new credential."""


class Device(NamedTuple):
    """A node of the tailnet, as an API shows it. A missing field is empty. Times are RFC 3339."""

    node_id: str
    node_key: str
    """``nodekey:…``. The ID alone does not identify a node: a restored control plane gives old IDs to other nodes."""
    name: str
    """The node's name in MagicDNS, without the domain."""
    hostname: str
    """The hostname that the node reports."""
    addresses: tuple[str, ...]
    tags: tuple[str, ...]
    ephemeral: bool
    online: bool
    last_seen: str
    expiry: str


class Minter(Protocol):
    """A source of auth keys."""

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:
        """An auth key for one node.

        Raises NoAuthKey, which says how to correct the credential's file; Refused, Unavailable.
        """


class ControlPlane(Minter, Protocol):
    """A control plane with an API. Every method raises NoAuthKey (of its credential), Refused, Unavailable."""

    def lifetime(self) -> Lifetime | None:
        """How long the credential itself lives; None if it does not expire."""

    def devices(self) -> tuple[Device, ...]:
        """All nodes of the tailnet."""

    def device(self, node_id: str) -> Device | None:
        """The node of that ID; None if there is none."""

    def rename(self, node_id: str, name: str) -> None:
        """Rename a node. ``name`` is a DNS label."""

    def set_tags(self, node_id: str, tags: tuple[str, ...]) -> None:
        """Replace a node's tags with these."""

    def delete(self, node_id: str) -> None:
        """Delete a node. Succeeds if there is no such node."""


def is_same(device: Device | None, node_key: str) -> bool:
    """Whether a device is the recorded one, by its node key. Callers check this before they change or delete a device.

    The ID alone is not enough: Headscale's IDs are 1, 2, 3, …, and after a restore, node 7 can be a person's laptop.
    """
    return device is not None and bool(node_key) and device.node_key == node_key


def as_auth_key(value: object, limit: int = 512) -> AuthKey:
    """The auth key in an answer. It must be printable ASCII without spaces, because the pipe to the worker carries it as text.

    Raises Unavailable.
    """
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isprintable()
        or not 0 < len(value) <= limit
        or " " in value
    ):
        raise Unavailable("its answer has no auth key in it", reached=True)
    return AuthKey(value)
