"""A reusable auth key in a file, for hosts with neither an OAuth client nor a Headscale API key."""

from __future__ import annotations

from . import AuthKey, credential

WHAT = "a reusable, tagged auth key"


class StaticKey:
    """The auth key in a file.

    Whether nodes are ephemeral, and their tags, were chosen when the key was created.
    """

    def __init__(self, path: str) -> None:
        """``path`` is read at each ``mint``, because you may replace the key at any time."""
        self.path = path

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:  # noqa: ARG002
        """The key in the file. Raises NoAuthKey if the file is missing, readable by others, or does not hold a key."""
        return AuthKey(credential.read(self.path, WHAT, "authKeyFile"))
