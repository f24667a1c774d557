"""The answer of an HTTP server, or why there is none. This module makes no request, and must not import anything slow."""

from __future__ import annotations

import json
import re
import time
from typing import Any, NamedTuple

from .. import errors
from ..json_fields import as_dict, as_list

MAX_RETRY_AFTER = 300.0
"""Seconds: a longer Retry-After is cut to this."""


class NoAnswer(Exception):
    """There is no usable answer. ``reached`` is whether the request may have reached the server."""

    def __init__(self, reason: str, advice: str = "", *, reached: bool) -> None:
        """Both texts are printable and hold no secret; ``advice`` is empty if waiting is all that helps."""
        super().__init__(reason)
        self.reason, self.advice, self.reached = reason, advice, reached


class Distrusted(NoAnswer):
    """The server's certificate is not trusted. Waiting does not help."""


class Answer(NamedTuple):
    """An HTTP response: ``document`` is its JSON, or None for a body that is empty or not JSON."""

    status: int
    document: Any
    message: str
    """The server's own words about an error, printable; empty for a success, and if it says nothing."""
    date: float | None
    """The server's clock (``Date``), in seconds since the epoch."""
    retry_after: float
    """Seconds to wait, as the server asks (``Retry-After``); 0 if it does not ask."""

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


def parse(
    status: int, date: float | None, retry_after: float, body: bytes, secrets: tuple[str, ...]
) -> Answer:
    """An Answer from a response's parts. None of ``secrets`` is in its message."""
    try:
        document = json.loads(body) if body else None
    except (ValueError, RecursionError):
        document = None
    message = ""
    if not 200 <= status < 300:  # a success needs no message, and may hold a new key
        words = body.decode(errors="replace") if document is None else _words(as_dict(document))
        message = redact(words, secrets).strip()
    shown = errors.show(message).strip("'\"") if message else ""
    return Answer(status, document, shown, date, retry_after)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The text without these secrets, and without anything that has the shape of a key of Tailscale or Headscale."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return re.sub(r"\b(tskey|hskey)-[\w-]+", r"\1-…", text)


def distrust(code: int, words: str, now: float) -> NoAnswer:
    """Why a certificate is refused: ``code`` is X509_V_ERR_… (openssl/x509_vfy.h), ``now`` the host's clock.

    A certificate that is not valid yet, or has expired, may be accepted later: a host's clock is often set after its pods start.
    """
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if code == 9:
        return NoAnswer(
            f"its certificate is not valid yet, by this host's clock, which says {clock}",
            "Set the host's clock: it seems to be behind.",
            reached=False,
        )
    if code == 10:
        return NoAnswer(
            f"its certificate has expired, by this host's clock, which says {clock}",
            "If that is not the time, set the host's clock; else the server needs a new certificate.",
            reached=False,
        )
    return Distrusted(f"its certificate is not trusted: {errors.show(words)}", reached=False)


def _words(document: dict[str, Any]) -> str:
    """An error's message: gRPC's ``message``, or an RFC 7807 problem's ``detail`` and the ``errors`` that Huma adds."""
    particulars = (as_dict(item).get("message") for item in as_list(document.get("errors")))
    words = (document.get("message"), document.get("detail"), *particulars)
    return ": ".join(word for word in words if isinstance(word, str))
