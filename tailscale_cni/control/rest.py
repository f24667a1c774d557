"""JSON over HTTP, to one host: what both APIs are asked through.

On http.client rather than requests, whose import takes 130 ms and is paid by every ADD that mints (http.client and ssl: 25). Of
HTTP it wants little: one request at a time, no redirects (a credential goes to the host that it was given for, and to no other),
no proxies of the environment, certificates that the host trusts, answers of bounded size. All of it, names looked up and every
retry included, ends when ``seconds`` are over, however slowly somebody speaks.
"""

from __future__ import annotations

import io
import json
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__, errors
from . import Refused, Unavailable, as_dict

if TYPE_CHECKING:
    import http.client
    import ssl
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

LARGEST_ANSWER = 16 * 2**20
"""Bytes: a list of some ten thousand devices."""

CONNECT_SECONDS = 5.0
"""For each address that a name has: a host that has no IPv6 has others."""

LONGEST_RETRY_AFTER = 300.0


class Answer(NamedTuple):
    """What was answered, below 500: ``document`` is JSON, or None for a body that is empty or something else."""

    status: int
    document: Any
    message: str
    """What an error says of itself, printable; empty if it says nothing."""
    date: float | None
    """The answerer's clock, in seconds since the epoch."""

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300


class Rest:
    """One host's API, and a moment at which we have no more patience with it."""

    def __init__(self, base: str, seconds: float) -> None:
        """``base`` is an http or https URL without a slash at its end; ``seconds`` bound all calls together."""
        self.base = base
        self.deadline = time.monotonic() + seconds

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        form: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Ask, with ``token`` as a bearer's; again if we are told to wait for less time than is left.

        Raises Refused for a certificate that nobody vouches for and for an answer that leads elsewhere; Unavailable for no
        answer, 429 and 5xx.
        """
        headers = {"Accept": "application/json", "User-Agent": f"tailscale-cni/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if form is not None:
            from urllib.parse import urlencode

            content, headers["Content-Type"] = urlencode(form), "application/x-www-form-urlencoded"
        elif body is not None:
            content, headers["Content-Type"] = json.dumps(body), "application/json"
        while True:
            answer, retry_after = self._exchange(method, path, content, headers)
            if answer.status == 429 and retry_after and time.monotonic() + retry_after < self.deadline:
                time.sleep(retry_after)
                continue
            return self._usable(answer, retry_after)

    def _usable(self, answer: Answer, retry_after: float) -> Answer:
        said = f": {answer.message}" if answer.message else ""
        if answer.status == 429:
            raise Unavailable(
                f"it has been asked too often{said}", reached=False, retry_after=retry_after or 1.0
            )
        if answer.status == 408 or (answer.status >= 500 and not _is_error_object(answer)):
            raise Unavailable(f"it answers {answer.status}{said}", reached=True, retry_after=retry_after)
        if 300 <= answer.status < 400:
            raise Refused(
                f"{self.base} answers {answer.status}: it leads elsewhere, and a credential goes to no other host",
                "Set apiURL to where it leads, if that is yours.",
            )
        return answer

    def _exchange(
        self, method: str, path: str, content: str | None, headers: Mapping[str, str]
    ) -> tuple[Answer, float]:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(self.base)
        connected = self._connect(
            parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        )
        sock = self._secured(connected, parts.hostname or "") if parts.scheme == "https" else connected
        connection = http.client.HTTPConnection(parts.netloc)
        timed = _Timed(sock, self.deadline)
        connection.sock = timed  # what it uses of a socket
        try:
            connection.request(method, parts.path + path, content, {**headers, "Connection": "close"})
            response = connection.getresponse()
            text = response.read(LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise Unavailable(f"its answer did not come: {_why(e)}", reached=True) from None
        finally:
            sock.close()
        if len(text) > LARGEST_ANSWER:
            raise Unavailable("its answer is larger than any that one could use", reached=True)
        return _parse(response, text), _seconds(response.headers.get("Retry-After"))

    def _connect(self, host: str, port: int) -> socket.socket:
        """A connection. Raises Unavailable."""
        reason = "its name has no address"
        for family, kind, protocol, _, address in self._look_up(host, port):
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            try:
                sock.settimeout(min(CONNECT_SECONDS, self._left()))
                sock.connect(address)
            except OSError as e:
                sock.close()
                reason = f"{errors.show(address[0])} port {port}: {_why(e)}"
                continue
            return sock
        raise Unavailable(f"it cannot be reached: {reason}", reached=False)

    def _look_up(self, host: str, port: int) -> list[Any]:
        """The addresses of a name. In a thread: there is no other way to stop waiting for a resolver. Raises Unavailable."""
        import threading

        found: list[Any] = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as e:
                found.append(e)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(self._left())
        if not found:
            raise Unavailable(f"the name {errors.show(host)} was not looked up in time", reached=False)
        if isinstance(found[0], Exception):
            raise Unavailable(
                f"the name {errors.show(host)} cannot be looked up: {_why(found[0])}",
                "Look at the host's resolver (/etc/resolv.conf).",
                reached=False,
            )
        addresses: list[Any] = found[0]
        return addresses

    def _secured(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        """TLS on a connection. Raises Refused, Unavailable."""
        import ssl

        try:
            sock.settimeout(self._left())
            return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as e:
            sock.close()
            raise distrust(e.verify_code, e.verify_message, time.time()) from None
        except (OSError, ValueError) as e:
            sock.close()
            raise Unavailable(f"TLS fails: {_why(e)}", reached=False) from None

    def _left(self) -> float:
        """Seconds until the end. Raises Unavailable when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Unavailable("it has not answered in time", reached=False)
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


def distrust(code: int, words: str, now: float) -> Refused | Unavailable:
    """A certificate that is not trusted: ``code`` is X509_V_ERR_… (openssl/x509_vfy.h), ``now`` the host's clock.

    One whose time has not come, or is over, is no reason to keep a pod from starting: a host's clock is often set after its pods.
    """
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if code == 9:
        return Unavailable(
            f"its certificate is not valid yet, by this host's clock, which says {clock}",
            "Set the host's clock: it seems to be behind.",
            reached=False,
        )
    if code == 10:
        return Unavailable(
            f"its certificate has expired, by this host's clock, which says {clock}",
            "If that is not the time, set the host's clock; else the control plane needs a new certificate.",
            reached=False,
        )
    return Refused(
        f"its certificate is not trusted: {errors.show(words)}",
        "Somebody may be in between. A certificate authority of your own belongs into the host's store (update-ca-certificates).",
    )


def _parse(response: http.client.HTTPResponse, text: bytes) -> Answer:
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):
        document = None
    message = as_dict(document).get("message")
    if not isinstance(message, str):
        message = text[: errors.SHOWN].decode(errors="replace") if document is None else ""
    shown = errors.show(message.strip()).strip("'\"") if message.strip() else ""
    return Answer(response.status, document, shown, _date(response.headers.get("Date")))


def _is_error_object(answer: Answer) -> bool:
    """Whether it is Headscale's own, as it says of what does not exist, too: 500 ``{"code": 2, "message": "user not found"}``."""
    document = as_dict(answer.document)
    return isinstance(document.get("code"), int) and isinstance(document.get("message"), str)


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
