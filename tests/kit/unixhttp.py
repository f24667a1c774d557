"""HTTP over a unix socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server at the socket ``path``; ``host`` is the value of the Host header."""

    def __init__(self, path: Path, host: str) -> None:
        super().__init__(host, timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket. Raises OSError if no server listens there."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
