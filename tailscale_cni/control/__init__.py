"""Who mints auth keys. Must not know what a pod is, nor where state is."""

from __future__ import annotations

from typing import Protocol


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


class Minter(Protocol):
    """A control plane, as far as keys go."""

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:
        """An auth key for one node. Raises NoAuthKey, which says what a person has to do."""
