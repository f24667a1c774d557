"""The LocalAPI of one node, over its unix socket: status, preferences, logout.

The worker is hostile input: answers are bounded in time and size, and addresses are taken only from the tailnet's
ranges (tailscale.com/net/tsaddr), one of each. The few lines of HTTP are ours: importing http.client takes 40 ms, as
long as a node takes to register.
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

LARGEST_ANSWER = 16 * 2**20
LARGEST_LINE = 2**20
HOST = "local-tailscaled.sock"

INITIAL_STATE = 2
"""``NotifyInitialState``: the bus begins with the state that the node is in (tailscale.com/ipn)."""

ADDRESSED = (5, 6)
"""The numbers of Starting and Running: the control plane has given the node its address. It has not looked for its relay yet, which nobody
need wait for."""


class Node(NamedTuple):
    """What the LocalAPI says of the node itself.

    ``state`` is the backend's: NeedsLogin, Starting, Running, …
    """

    state: str
    name: str
    addresses: tuple[Address, ...]
    online: bool
    tags: tuple[str, ...]
    node_id: str
    node_key: str = ""
    """``nodekey:…``, the public one."""
    asked: int = 0
    """When it was asked: it says all that had happened by then. CLOCK_MONOTONIC, in nanoseconds."""
    peer_documents: tuple[dict[str, Any], ...] = ()
    """What it says of its peers, if that was asked: hundreds, of which nobody needs all that could be read in them."""

    @property
    def peers(self) -> tuple[Address, ...]:
        """The addresses of its peers."""
        return tuple(
            address for peer in self.peer_documents for address in tailnet_addresses(peer.get("TailscaleIPs"))
        )

    @property
    def peer_names(self) -> tuple[str, ...]:
        """Their full names."""
        return tuple(as_text(peer.get("DNSName")).rstrip(".") for peer in self.peer_documents)

    @property
    def paths(self) -> tuple[str, ...]:
        """Per peer that is active: ``direct`` or ``relay``."""
        active = (peer for peer in self.peer_documents if peer.get("Active") is True)
        return tuple("direct" if peer.get("CurAddr") else "relay" for peer in active)

    @property
    def last_handshake(self) -> str:
        """Of any peer; RFC 3339, empty if there was none."""
        return max((as_text(peer.get("LastHandshake")) for peer in self.peer_documents), default="")

    @property
    def addressed(self) -> bool:
        """Whether the control plane has given it its address."""
        return self.state in ("Starting", "Running") and bool(self.addresses)

    @property
    def running(self) -> bool:
        """Whether it is on the tailnet, with an address."""
        return self.state == "Running" and bool(self.addresses)


class LocalApi:
    """One node's LocalAPI. Every call is bounded by ``seconds`` and raises LocalApiFailed."""

    def __init__(self, path: str, log: str, seconds: float) -> None:
        """``log`` is where a person finds the node's log."""
        self.path = path
        self.log = log
        self.seconds = seconds

    @classmethod
    def of(cls, attachment: Attachment, seconds: float = 5.0) -> LocalApi:
        """An attachment's."""
        return cls(attachment.socket, attachment.log, seconds)

    def node(self, *, peers: bool = False) -> Node:
        """The node as it sees itself; with its peers' addresses and paths if asked."""
        asked = time.monotonic_ns()
        return _node(self._json("GET", f"/localapi/v0/status?peers={str(peers).lower()}"), asked)

    def logout(self) -> None:
        """Log out: the control plane forgets an ephemeral node at once."""
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
        """Return once the node has its address, by its own word; it may begin to listen meanwhile.

        Asking again and again would cost both of us more than all the rest, where many pods start at once.
        """
        with self._asked("GET", f"/localapi/v0/watch-ipn-bus?mask={INITIAL_STATE}") as connection:
            for line in _lines(connection, time.monotonic() + self.seconds):
                try:
                    if line.startswith(b"{") and as_dict(json.loads(line)).get("State") in ADDRESSED:
                        return
                except (ValueError, RecursionError):
                    break
        raise self._failed("it does not say what becomes of it")

    def _call(self, method: str, target: str) -> bytes:
        with self._asked(method, target) as connection:
            answer = b"".join(_parts(connection, time.monotonic() + self.seconds))
        head, end, body = answer.partition(b"\r\n\r\n")
        status = head[len("HTTP/1.1 ") :][:3]
        if not (end and head.startswith(b"HTTP/1.") and status.isdigit()) or b"chunked" in head.lower():
            raise self._failed("its answer is not HTTP/1.0")
        if int(status) >= 300:
            raise self._failed(f"{int(status)}: {errors.show(body.decode(errors='replace'))}")
        return body

    @contextlib.contextmanager
    def _asked(self, method: str, target: str) -> Iterator[socket.socket]:
        """Ask in HTTP/1.0: the answer is neither in chunks nor followed by another, and ends with the connection."""
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
    """One answer, however slowly it comes, but no later, and no larger than it may be. Raises OSError."""
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        part = connection.recv(1 << 16)
        if not part:
            return
        size += len(part)
        if size > LARGEST_ANSWER:
            raise OSError(f"its answer is larger than {LARGEST_ANSWER} bytes")
        yield part
    raise TimeoutError("timed out")


def _lines(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """The whole lines of one answer, as they come. Raises OSError."""
    rest = b""
    for part in _parts(connection, deadline):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        if len(rest) > LARGEST_LINE:
            raise OSError(f"a line of its answer is longer than {LARGEST_LINE} bytes")


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
    """The addresses of a JSON list that are within the tailnet's ranges.

    Whatever else is in it is left out.
    """
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
    """The first IPv4 and the first IPv6 address: no node has more of its own, and each costs the host."""
    first: dict[int, Address] = {}
    for address in addresses:
        first.setdefault(address.version, address)
    return tuple(first.values())
