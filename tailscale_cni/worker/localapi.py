"""The LocalAPI of one node, over its unix socket: status, events, logout.

What the worker says is hostile input. Answers are bounded in time and size, and the node gets at most one IPv4 and one IPv6 address,
both in the tailnet's ranges (tailscale.com/net/tsaddr). The few lines of HTTP are our own, because importing http.client takes 40 ms,
as long as a node takes to register.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from ..json_fields import as_dict, as_list, as_text, as_texts, as_word
from ..tailnet import Address, is_tailnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..state.attachments import Attachment

MAX_ANSWER = 16 * 2**20
"""Bytes of an answer."""

MAX_LINE = 2**20
"""Bytes of one message of the IPN bus."""

HOST = "local-tailscaled.sock"

INITIAL_STATE = 2
"""``NotifyInitialState``: the first message of the IPN bus has the current state (tailscale.com/ipn)."""

ADDRESSED = (5, 6)
"""The numbers of the states Starting and Running, in which the control plane has given the node its address. In Starting, the node has
not yet chosen its DERP relay, which it does not need in order to be configured."""


class Node(NamedTuple):
    """The node's status, from its LocalAPI. ``state`` is the backend's, such as NeedsLogin, Starting or Running."""

    state: str
    name: str
    addresses: tuple[Address, ...]
    online: bool
    tags: tuple[str, ...]
    node_id: str
    node_key: str = ""
    """The public node key, ``nodekey:…``."""
    asked: int = 0
    """When the request was sent: CLOCK_MONOTONIC, in nanoseconds. The status includes every change before that."""
    peer_documents: tuple[dict[str, Any], ...] = ()
    """The status of each peer, as JSON, if peers were requested. There may be hundreds, so only the fields in use are parsed."""

    @property
    def peers(self) -> tuple[Address, ...]:
        """The addresses of all peers."""
        return tuple(
            address for peer in self.peer_documents for address in tailnet_addresses(peer.get("TailscaleIPs"))
        )

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The fully qualified names of all peers."""
        return tuple(as_text(peer.get("DNSName")).rstrip(".") for peer in self.peer_documents)

    @property
    def paths(self) -> tuple[str, ...]:
        """For each active peer: ``direct`` or ``relay``."""
        active = (peer for peer in self.peer_documents if peer.get("Active") is True)
        return tuple("direct" if peer.get("CurAddr") else "relay" for peer in active)

    @property
    def last_handshake(self) -> str:
        """The time of the latest handshake with any peer, in RFC 3339; empty if there was none."""
        return max((as_text(peer.get("LastHandshake")) for peer in self.peer_documents), default="")

    @property
    def addressed(self) -> bool:
        """Whether the control plane has given the node its address."""
        return self.state in ("Starting", "Running") and bool(self.addresses)

    @property
    def running(self) -> bool:
        """Whether the node is connected to the tailnet and has an address."""
        return self.state == "Running" and bool(self.addresses)


class LocalApi:
    """The LocalAPI of one node. Every call takes at most ``seconds`` and raises LocalApiFailed."""

    def __init__(self, path: str, log: str, seconds: float) -> None:
        """``path`` is the unix socket. ``log`` tells an admin where the node's log is; it is part of error messages."""
        self.path = path
        self.log = log
        self.seconds = seconds

    @classmethod
    def of(cls, attachment: Attachment, seconds: float = 5.0) -> LocalApi:
        """The LocalAPI of an attachment's node."""
        return cls(attachment.socket, attachment.log, seconds)

    def node(self, *, peers: bool = False) -> Node:
        """The node's status, including its peers' if ``peers``."""
        asked = time.monotonic_ns()
        return _node(self._json("GET", f"/localapi/v0/status?peers={str(peers).lower()}"), asked)

    def logout(self) -> None:
        """Log the node out. The control plane deletes an ephemeral node at once."""
        self._call("POST", "/localapi/v0/logout")

    def _json(self, method: str, target: str) -> dict[str, Any]:
        try:
            answer = json.loads(self._call(method, target))
        except (ValueError, RecursionError) as e:
            raise self._failed(f"its answer cannot be read: {errors.show(str(e))}") from None
        if not isinstance(answer, dict):
            raise self._failed("its answer is not an object")
        return answer

    def await_address(self) -> None:
        """Wait until the node reports that it has its address. The worker need not listen yet.

        This watches the IPN bus, because polling would cost too much CPU time when many pods start at once.
        """
        with self._request("GET", f"/localapi/v0/watch-ipn-bus?mask={INITIAL_STATE}") as connection:
            for line in _lines(connection, time.monotonic() + self.seconds):
                try:
                    if line.startswith(b"{") and as_dict(json.loads(line)).get("State") in ADDRESSED:
                        return
                except (ValueError, RecursionError):
                    break
        raise self._failed("it does not say what becomes of it")

    def _call(self, method: str, target: str) -> bytes:
        with self._request(method, target) as connection:
            answer = b"".join(_parts(connection, time.monotonic() + self.seconds))
        head, end, body = answer.partition(b"\r\n\r\n")
        status = head[len("HTTP/1.1 ") :][:3]
        if not (end and head.startswith(b"HTTP/1.") and status.isdigit()) or b"chunked" in head.lower():
            raise self._failed("its answer is not HTTP/1.0")
        if int(status) >= 300:
            raise self._failed(f"{int(status)}: {errors.show(body.decode(errors='replace'))}")
        return body

    @contextlib.contextmanager
    def _request(self, method: str, target: str) -> Iterator[socket.socket]:
        """Send a request in HTTP/1.0, so that the answer is not chunked and ends with the connection."""
        request = f"{method} {target} HTTP/1.0\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(self.seconds)
                connection.connect(self.path)
                connection.sendall(request.encode())
                yield connection
        except OSError as e:
            raise self._failed(errors.show(str(e) or type(e).__name__)) from None

    def _failed(self, reason: str) -> errors.LocalApiFailed:
        return errors.LocalApiFailed(reason=reason, log=self.log)


def _parts(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """The parts of one answer, until the end of the connection.

    Raises OSError: TimeoutError at ``deadline`` (CLOCK_MONOTONIC), or if the answer is larger than ``MAX_ANSWER``.
    """
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        part = connection.recv(1 << 16)
        if not part:
            return
        size += len(part)
        if size > MAX_ANSWER:
            raise OSError(f"its answer is larger than {MAX_ANSWER} bytes")
        yield part
    raise TimeoutError("timed out")


def _lines(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """The complete lines of one answer, as they arrive. Raises OSError, also for a line longer than ``MAX_LINE``."""
    rest = b""
    for part in _parts(connection, deadline):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE:
            raise OSError(f"a line of its answer is longer than {MAX_LINE} bytes")


def _node(status: dict[str, Any], asked: int) -> Node:
    own = as_dict(status.get("Self"))
    return Node(
        state=as_text(status.get("BackendState")),
        name=as_text(own.get("DNSName")).rstrip("."),
        addresses=_one_of_each(tailnet_addresses(status.get("TailscaleIPs"))),
        online=own.get("Online") is True,
        tags=as_texts(own.get("Tags")),
        node_id=as_word(own.get("ID")),
        node_key=as_word(own.get("PublicKey")),
        asked=asked,
        peer_documents=tuple(map(as_dict, as_dict(status.get("Peer")).values())),
    )


def tailnet_addresses(value: object) -> tuple[Address, ...]:
    """The addresses in a JSON list that are in the tailnet's ranges. All other items are ignored."""
    found = []
    for text in as_list(value):
        try:
            address = ipaddress.ip_address(text) if isinstance(text, str) else None
        except ValueError:
            continue
        if address is not None and is_tailnet(address):
            found.append(address)
    return tuple(found)


def _one_of_each(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    """The first IPv4 and the first IPv6 address. A node has no more, and each further one would cost the host routes and rules."""
    first: dict[int, Address] = {}
    for address in addresses:
        first.setdefault(address.version, address)
    return tuple(first.values())
