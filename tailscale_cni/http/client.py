"""The calling side: a child process speaks HTTP (``session``), and is ended at the deadline.

Only killing a process bounds everything: name resolution, connecting, TLS, and an answer that arrives a byte at a time. The import
of requests takes 70 ms or more and runs in the child, so a caller that starts the child early does not wait for the import.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from .. import linux
from .answer import NoAnswer, distrust, parse, redact
from .tls import HOST_TLS, Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .answer import Answer

MAX_ANSWER = 16 * 2**20
"""The largest body, in bytes: enough for a list of some ten thousand devices."""

MAX_LINE = 64 * 2**10
"""The longest line that the child writes, in bytes. A body follows its line."""

MAX_CHILD_SECONDS = 300
"""The longest life of a child, in seconds, for callers that were killed."""


TOO_LATE: dict[str, dict[str, Any]] = {
    "start": {"reason": "it has not answered in time", "reached": False},
    "name": {"reason": "its name was not looked up in time", "reached": False},
    "connect": {"reason": "it cannot be reached: timed out", "reached": False},
    "sent": {"reason": "its answer did not come: timed out", "reached": True},
}
"""The failure at the deadline, by the last stage that the child reported."""


_early: dict[tuple[str, int, Tls, str], _Child] = {}
# A detached child of ours must not take over a child of its parent, whose socket it closes.
os.register_at_fork(after_in_child=_early.clear)


def start_early(base: str, proxy: str = "") -> None:
    """Start the child for the next Client of a server, so that the child imports requests while the caller does something else.

    The child ends with the caller at the latest.
    """
    Client(base, proxy=proxy).leave_started()


class Client:
    """One server that speaks HTTP, by its base URL. Use it from one thread at a time."""

    def __init__(
        self, base: str, *, max_answer: int = MAX_ANSWER, tls: Tls = HOST_TLS, proxy: str = ""
    ) -> None:
        """``base`` is an http or https URL without a slash at its end; ``proxy`` is an http or https URL, or empty.

        No proxy is used for a loopback address.
        """
        self._child: _Child | None = None
        self.base = base
        self.max_answer = max_answer
        self.tls = tls
        self.proxy = "" if _is_loopback(base) else proxy

    def start(self) -> None:
        """Start the child, unless it is running."""
        if self._child is None:
            self._child = _early.pop(self._place, None) or _Child(lambda connection: _serve(self, connection))

    def leave_started(self) -> None:
        """Start the child, and leave it to the next Client with the same arguments."""
        self.start()
        if self._child:
            _early[self._place], self._child = self._child, None

    @property
    def _place(self) -> tuple[str, int, Tls, str]:
        return self.base, self.max_answer, self.tls, self.proxy

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child:
            child.end()

    def __del__(self) -> None:
        """End the child of a client that is no longer used."""
        self.close()

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
        """Send one request, with ``token`` as bearer token, and wait until ``deadline`` (CLOCK_MONOTONIC). Raises NoAnswer, Distrusted."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer("it has not answered in time", reached=False)
        secrets = (
            token,
            *(value for name, value in (form or {}).items() if "secret" in name),
            *_userinfo(self.proxy),
        )
        self.start()
        assert self._child  # noqa: S101 - for mypy
        request = {
            "method": method,
            "path": path,
            "seconds": left,
            "token": token,
            "form": form,
            "body": body,
        }
        try:
            said, content = self._child.ask(request, deadline)
        except BaseException:
            self.close()
            raise
        if "status" not in said:
            self.close()
            raise _failure(said, secrets)
        if len(content) > self.max_answer:
            self.close()
            raise NoAnswer(f"its answer is larger than {self.max_answer} bytes", reached=True)
        return parse(said["status"], said["date"], said["retry_after"], content, secrets)


def _serve(client: Client, connection: socket.socket) -> None:
    """Answer requests, in the child."""
    from .session import serve

    serve(connection, client.base, client.max_answer, client.tls, client.proxy)


def _failure(said: dict[str, Any], secrets: tuple[str, ...]) -> NoAnswer:
    if "certificate" in said:
        return distrust(said["certificate"], said["reason"], time.time())
    return NoAnswer(redact(said["reason"], secrets), said.get("advice", ""), reached=said["reached"])


def _userinfo(proxy: str) -> tuple[str, ...]:
    """The user name and password in a proxy's URL, as written there and as sent."""
    if "@" not in proxy:
        return ()
    from urllib.parse import unquote, urlsplit

    password = urlsplit(proxy).password or ""
    return proxy, password, unquote(password)


def _is_loopback(base: str) -> bool:
    """Whether a URL is on this host. Go's proxy settings, which the worker uses, make the same exception."""
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    host = urlsplit(base).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class _Child:
    """A child process that answers requests over a socket, one at a time."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        number = theirs.fileno()

        def become() -> None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(MAX_CHILD_SECONDS)
            linux.disable_core_dumps()
            serve(theirs)

        self.pid = linux.detach(become, keep=(number,))
        theirs.close()
        self._rest = b""

    def ask(self, request: dict[str, Any], deadline: float) -> tuple[dict[str, Any], bytes]:
        """The head and the body of an answer, or ``{"reason": …, "reached": …}`` without an answer. The caller then ends the child."""
        stage = "start"
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while True:
                said: dict[str, Any] = json.loads(self._line(deadline))
                if "stage" not in said:
                    return said, self._exactly(said.get("length", 0), deadline)
                stage = said["stage"]
        except TimeoutError:
            return TOO_LATE[stage], b""
        except (OSError, ValueError, EOFError):
            return {"reason": "the process that asks it has ended", "reached": stage == "sent"}, b""

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_LINE:
                raise ValueError("too long")
            self._receive(deadline)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _exactly(self, length: int, deadline: float) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < length:
            self._rest = b""
            self._receive(deadline)
            parts.append(self._rest)
            have += len(self._rest)
        whole = b"".join(parts)
        self._rest = whole[length:]
        return whole[:length]

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._socket], [], [], left)[0]:
            raise TimeoutError
        part = self._socket.recv(1 << 16)
        if not part:
            raise EOFError
        self._rest += part

    def end(self) -> None:
        """Kill the child. It has no state to save. A process that has inherited it leaves it to its parent."""
        if os.getpid() != self._owner:
            return
        self._socket.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
