"""A reusable auth key in a file: for people who have neither an OAuth client nor a Headscale API key."""

from __future__ import annotations

from . import AuthKey, credential

WHAT = "a reusable, tagged auth key"


class StaticKey:
    """The key of one file.

    Whether nodes are ephemeral, and their tags, were decided when the key was made.
    """

    def __init__(self, path: str) -> None:
        """``path`` is read at each mint: the key may be replaced at any time."""
        self.path = path

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:  # noqa: ARG002
        """The file's key. Raises NoAuthKey for a file that is missing, readable by others, or no key."""
        return AuthKey(credential.read(self.path, WHAT, "authKeyFile"))
