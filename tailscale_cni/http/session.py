"""The child's side: a requests session that answers its parent's requests. The only module that imports requests.

The environment is ignored (proxies, .netrc, CA bundles). The host's trust store is used instead of certifi's. Redirects are not
followed, so that no credential goes to another host. The parent ends this process at the deadline of a call.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
import warnings
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any

from .. import __version__, errors
from .answer import MAX_RETRY_AFTER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a missing charset detector, which JSON does not need
    import requests
    import urllib3.exceptions
    from requests.adapters import HTTPAdapter
    from requests.structures import CaseInsensitiveDict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tls import Tls

CONNECT_TIMEOUT = 5.0
"""Seconds to try each address of a name, so that a host without IPv6 soon tries an IPv4 address."""

STAGES = {"socket.getaddrinfo": "name", "socket.connect": "connect", "http.client.send": "sent"}
"""Python's audit events, and the stage of a request that begins with each (docs.python.org/3/library/audit_events.html)."""

FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)


def serve(connection: socket.socket, base: str, max_answer: int, tls: Tls, proxy: str) -> None:
    """Answer the parent's requests, a JSON line each, until the parent closes its end. Reports each stage of a request as it begins."""
    stage = ""

    def report(event: str, _: object) -> None:
        nonlocal stage
        if event in STAGES and STAGES[event] != stage:
            stage = STAGES[event]
            _send(connection, {"stage": stage})

    session = _session(base, tls, proxy)
    sys.addaudithook(report)
    for line in connection.makefile("rb"):
        stage = ""
        try:
            head, body = _exchange(session, base, json.loads(line), max_answer)
        except FAILURES as e:
            head, body = _failure(e, stage), b""
        _send(connection, head, body)


def _send(connection: socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    connection.sendall(json.dumps(head).encode() + b"\n" + body)


def _session(base: str, tls: Tls, proxy: str) -> requests.Session:
    session = _Session()
    session.trust_env = False
    session.headers = CaseInsensitiveDict(
        {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"tailscale-cni/{__version__}",
        }
    )
    if proxy:
        session.proxies = {"http": proxy, "https": proxy}
    adapter = _Adapter(
        _context(tls) if base.startswith("https:") else None,
        ssl.create_default_context() if proxy.startswith("https:") else None,
    )
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Session(requests.Session):
    """A session that follows no redirect, and does not read the body of one either."""

    def get_redirect_target(self, resp: object) -> None:
        """Return None: no redirect is followed."""


class _Adapter(HTTPAdapter):
    """Connections with our own TLS contexts."""

    def __init__(self, context: ssl.SSLContext | None, of_proxy: ssl.SSLContext | None) -> None:
        self._context, self._of_proxy = context, of_proxy
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        contexts = {"ssl_context": self._context, "proxy_ssl_context": self._of_proxy}
        return super().proxy_manager_for(proxy, **kwargs, **contexts)

    def cert_verify(self, conn: Any, url: str, verify: object, cert: object) -> None:  # noqa: ARG002
        """Require verification, and keep requests from adding certifi's authorities to our context."""
        conn.cert_reqs = "CERT_REQUIRED"


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.authority or None)
    if not tls.strict:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate:
        pair = os.memfd_create("client")  # OpenSSL only reads files; the key must not be on a disk
        try:
            os.write(pair, tls.certificate + b"\n" + tls.key)
            context.load_cert_chain(f"/proc/self/fd/{pair}", password=lambda: b"")  # never ask for a password
        finally:
            os.close(pair)
    return context


def _exchange(
    session: requests.Session, base: str, request: dict[str, Any], max_answer: int
) -> tuple[dict[str, Any], bytes]:
    seconds = request["seconds"]
    with session.request(
        request["method"],
        base + request["path"],
        headers={"Authorization": f"Bearer {request['token']}"} if request["token"] else {},
        data=request["form"],
        json=request["body"],
        timeout=(min(CONNECT_TIMEOUT, seconds), seconds),
        allow_redirects=False,
        stream=True,
    ) as response:
        body = b""
        # A body that is shorter than announced is only noticed by a read at its end.
        while len(body) <= max_answer and (
            part := response.raw.read(max_answer + 1 - len(body), decode_content=False)
        ):
            body += part
        head = {
            "status": response.status_code,
            "date": _date(response.headers.get("Date")),
            "retry_after": _seconds(response.headers.get("Retry-After")),
            "length": len(body),
        }
    return head, body


def _failure(e: BaseException, stage: str) -> dict[str, Any]:
    """The head that tells the parent why there is no answer."""
    causes = list(_causes(e))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return {"certificate": cause.verify_code, "reason": cause.verify_message}
    why = _why(causes)
    if any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes):
        return {"reason": f"the proxy fails: {why}", "advice": "Look at proxyURL.", "reached": False}
    if any(isinstance(cause, socket.gaierror | UnicodeError) for cause in causes):
        advice = "Look at the host's resolver (/etc/resolv.conf)."
        return {"reason": f"its name cannot be looked up: {why}", "advice": advice, "reached": False}
    if stage == "sent":
        return {"reason": f"its answer did not come: {why}", "reached": True}
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return {"reason": f"TLS fails: {why}", "reached": False}
    return {"reason": f"it cannot be reached: {why}", "reached": False}


def _causes(e: BaseException | None) -> Iterator[BaseException]:
    """An exception of requests and all that it wraps, the innermost last."""
    seen: list[BaseException] = []
    while e is not None and e not in seen:
        seen.append(e)
        yield e
        wrapped = [item for item in (getattr(e, "reason", None), *e.args) if isinstance(item, BaseException)]
        e = wrapped[0] if wrapped else e.__cause__ or e.__context__


def _why(causes: list[BaseException]) -> str:
    for cause in reversed(causes):
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return "timed out"
        if isinstance(cause, OSError) and cause.strerror:
            return errors.show(cause.strerror).strip("'\"")
    return errors.show(str(causes[-1]) or type(causes[-1]).__name__).strip("'\"")


def _seconds(retry_after: str | None) -> float:
    """A Retry-After in seconds; 0 if it is missing or a date."""
    text = (retry_after or "").strip()
    return min(float(text), MAX_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0


def _date(text: str | None) -> float | None:
    try:
        parsed = parsedate_tz(text or "")
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError, TypeError):
        return None
