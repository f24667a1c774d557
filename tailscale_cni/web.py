"""JSON over HTTP, to one host: what control planes and the cluster's API are asked through.

On http.client rather than requests, whose import takes 130 ms and is paid by every ADD that mints (http.client and ssl: 25). Of
HTTP it wants little: one request at a time, no redirects (a credential goes to the host that it was given for, and to no other),
no proxies of the environment, answers of bounded size. All of it, names looked up included, ends at a moment, however slowly
somebody speaks. Whoever asks knows what an answer means, and what a person should do about it.
"""

from __future__ import annotations

import io
import json
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import __version__, errors
from .untrusted import as_dict, as_list

if TYPE_CHECKING:
    import http.client
    import ssl
    from collections.abc import Callable, Mapping

    from _typeshed import WriteableBuffer

LARGEST_ANSWER = 16 * 2**20
"""Bytes: a list of some ten thousand devices."""

CONNECT_SECONDS = 5.0
"""For each address that a name has: a host that has no IPv6 has others."""

LONGEST_RETRY_AFTER = 300.0


class NoAnswer(Exception):
    """There is no answer that one can use. ``reached`` says whether the question may have arrived."""

    def __init__(self, reason: str, advice: str = "", *, reached: bool) -> None:
        """Both are printable, and show nothing secret; ``advice`` is empty where waiting is all that there is to do."""
        super().__init__(reason)
        self.reason, self.advice, self.reached = reason, advice, reached


class Distrusted(NoAnswer):
    """Nobody vouches for the certificate: waiting does not help."""


class Answer(NamedTuple):
    """What was answered: ``document`` is JSON, or None for a body that is empty or something else."""

    status: int
    document: Any
    message: str
    """What an error says of itself, printable; empty if it says nothing."""
    date: float | None
    """The answerer's clock, in seconds since the epoch."""
    retry_after: float
    """What it asks to be given, in seconds; 0 if it has not said."""

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300


class Server:
    """One host that speaks HTTP."""

    def __init__(
        self, base: str, *, largest: int = LARGEST_ANSWER, trust: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """``base`` is an http or https URL without a slash at its end; ``trust`` says whom to trust there, if not whom the host does."""
        self.base = base
        self.largest = largest
        self.trust = trust

    def ask(
        self,
        method: str,
        path: str,
        deadline: float,
        *,
        token: str = "",
        form: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One question, with ``token`` as a bearer's, until ``deadline`` (CLOCK_MONOTONIC). Raises NoAnswer, Distrusted."""
        headers = {
            "Accept": "application/json",
            "Connection": "close",
            "User-Agent": f"tailscale-cni/{__version__}",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if form is not None:
            from urllib.parse import urlencode

            content, headers["Content-Type"] = urlencode(form), "application/x-www-form-urlencoded"
        elif body is not None:
            content, headers["Content-Type"] = json.dumps(body), "application/json"
        return self._exchange(method, path, content, headers, deadline)

    def _exchange(
        self, method: str, path: str, content: str | None, headers: Mapping[str, str], deadline: float
    ) -> Answer:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.base)
        host = parts.hostname or ""
        sock = _connect(host, parts.port or (443 if parts.scheme == "https" else 80), deadline)
        if parts.scheme == "https":
            sock = self._secured(sock, host, deadline)
        try:
            connection = http.client.HTTPConnection(parts.netloc)
            timed = _Timed(sock, deadline)
            connection.sock = timed  # what it uses of a socket
            connection.request(method, parts.path + path, content, headers)
            response = connection.getresponse()
            text = response.read(self.largest + 1)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise NoAnswer(f"its answer did not come: {_why(e)}", reached=True) from None
        finally:
            sock.close()
        if len(text) > self.largest:
            raise NoAnswer("its answer is larger than any that one could use", reached=True)
        return _parse(response, text)

    def _secured(self, sock: socket.socket, host: str, deadline: float) -> ssl.SSLSocket:
        """TLS on a connection."""
        import ssl

        try:
            sock.settimeout(_left(deadline))
            context = self.trust() if self.trust else ssl.create_default_context()
            return context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as e:
            sock.close()
            raise distrust(e.verify_code, e.verify_message, time.time()) from None
        except (OSError, ValueError) as e:
            sock.close()
            raise NoAnswer(f"TLS fails: {_why(e)}", reached=False) from None


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    reason = "its name has no address"
    for family, kind, protocol, _, address in _look_up(host, port, deadline):
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            sock.settimeout(min(CONNECT_SECONDS, _left(deadline)))
            sock.connect(address)
        except OSError as e:
            sock.close()
            reason = f"{errors.show(address[0])} port {port}: {_why(e)}"
            continue
        return sock
    raise NoAnswer(f"it cannot be reached: {reason}", reached=False)


def _look_up(host: str, port: int, deadline: float) -> list[Any]:
    """The addresses of a name. In a thread: there is no other way to stop waiting for a resolver."""
    import threading

    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as e:
            found.append(e)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if not found:
        raise NoAnswer(f"the name {errors.show(host)} was not looked up in time", reached=False)
    if isinstance(found[0], Exception):
        raise NoAnswer(
            f"the name {errors.show(host)} cannot be looked up: {_why(found[0])}",
            "Look at the host's resolver (/etc/resolv.conf).",
            reached=False,
        )
    addresses: list[Any] = found[0]
    return addresses


def _left(deadline: float) -> float:
    """Seconds until then. Raises NoAnswer when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise NoAnswer("it has not answered in time", reached=False)
    return left


class _Timed(io.RawIOBase):
    """What http.client uses of a socket, with an end: its own time-out begins again with each byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._wait()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - it is "rb"
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._wait()
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        """The socket is closed by whoever made it: http.client does so before it has read."""

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)


def distrust(code: int, words: str, now: float) -> NoAnswer:
    """A certificate that is not trusted: ``code`` is X509_V_ERR_… (openssl/x509_vfy.h), ``now`` the host's clock.

    One whose time has not come, or is over, may be trusted later: a host's clock is often set after its pods.
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


def _parse(response: http.client.HTTPResponse, text: bytes) -> Answer:
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):
        document = None
    message = text[: errors.SHOWN].decode(errors="replace") if document is None else _said(as_dict(document))
    shown = errors.show(message.strip()).strip("'\"") if message.strip() else ""
    headers = response.headers
    return Answer(
        response.status, document, shown, _date(headers.get("Date")), _seconds(headers.get("Retry-After"))
    )


def _said(document: dict[str, Any]) -> str:
    """The words of an error: its message, or those of a problem (RFC 7807), whose particulars are where Huma has them."""
    particulars = (as_dict(item).get("message") for item in as_list(document.get("errors")))
    words = (document.get("message"), document.get("detail"), *particulars)
    return ": ".join(word for word in words if isinstance(word, str))


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After; one that is a date is as none."""
    text = (retry_after or "").strip()
    return min(float(text), LONGEST_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0


def _date(text: str | None) -> float | None:
    from email.utils import mktime_tz, parsedate_tz  # http.client has imported it

    try:
        parsed = parsedate_tz(text or "")
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError, TypeError):
        return None


def _why(e: Exception) -> str:
    words = (e.strerror if isinstance(e, OSError) else None) or str(e) or type(e).__name__
    return errors.show(words).strip("'\"")
