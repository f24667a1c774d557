"""A secret in a file that only root can read: a static auth key, an OAuth client's secret, an API key."""

from __future__ import annotations

import os
import stat

from .. import errors

MAX_SECRET = 4096
"""The largest secret, in bytes."""


def read(path: str, what: str, setting: str) -> str:
    """The secret in a file. It is read at each call, because you may replace it at any time.

    Raises NoAuthKey for a file that is missing, readable by others, or has another content. The error says ``what`` the file should
    hold, as in "an auth key", and names the ``setting`` of the path. It never shows the content of the file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as e:
        advice = f"Write {what} to {path} (mode 0600), or set {setting}."
        raise errors.NoAuthKey(reason=f"{path}: {e.strerror}", advice=advice) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            advice = f"The file holds a secret. Run 'chown root: {path}; chmod 600 {path}'."
            raise errors.NoAuthKey(reason=f"{path} is not a file that only root can read", advice=advice)
        text = os.read(fd, MAX_SECRET)
    finally:
        os.close(fd)
    return parse(text, path, what)


def parse(content: bytes, where: str, what: str) -> str:
    """The secret in ``content``, which was read from ``where``. Raises NoAuthKey."""
    text = content.decode("ascii", "replace").strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text or len(content) >= MAX_SECRET:
        advice = f"The file must hold {what} and nothing else."
        raise errors.NoAuthKey(reason=f"{where} does not hold {what}", advice=advice)
    return text
