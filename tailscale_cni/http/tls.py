"""The certificates of an HTTPS client: whom it trusts, and what shows who it is."""

from __future__ import annotations

from typing import NamedTuple


class Tls(NamedTuple):
    """The certificate authorities that an HTTPS client trusts, and the client's own certificate and key. All are PEM."""

    authority: str = ""
    """Certificates of authorities; empty means those that the host trusts."""
    certificate: bytes = b""
    key: bytes = b""
    strict: bool = True
    """Whether authorities must fully conform to RFC 5280, as is Python 3.13's default. Those of clusters often do not."""

    def __repr__(self) -> str:
        """Without the key."""
        return "Tls(…)"


HOST_TLS = Tls()
"""Trust the host's authorities, without a client certificate."""
