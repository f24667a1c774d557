"""A reusable auth key in a file: for people who have neither an OAuth client nor a Headscale API key."""

from __future__ import annotations

import os
import stat

from .. import errors
from . import AuthKey

LONGEST = 4096


class StaticKey:
    """The key of one file.

    Whether nodes are ephemeral, and their tags, were decided when the key was made.
    """

    def __init__(self, path: str) -> None:
        """``path`` is read at each mint: the key may be replaced at any time."""
        self.path = path

    def mint(self, *, hostname: str, tags: tuple[str, ...], ephemeral: bool) -> AuthKey:  # noqa: ARG002
        """The file's key. Raises NoAuthKey for a file that is missing, readable by others, or no key."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as e:
            advice = f"Write a reusable, tagged auth key to {self.path} (mode 0600), or set authKeyFile."
            raise errors.NoAuthKey(reason=f"{self.path}: {e.strerror}", advice=advice) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                advice = f"It is a secret: 'chown root: {self.path}; chmod 600 {self.path}'."
                raise errors.NoAuthKey(reason=f"{self.path} is not a file of root's alone", advice=advice)
            text = os.read(fd, LONGEST).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
        if not text or not text.isascii() or not text.isprintable() or " " in text or len(text) == LONGEST:
            advice = "It must hold the key and nothing else."
            raise errors.NoAuthKey(reason=f"{self.path} does not hold an auth key", advice=advice)
        return AuthKey(text)
