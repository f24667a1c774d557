"""The LocalAPI of one node, over its unix socket: status, preferences, logout.

The worker is hostile input: answers are bounded in time and size, and addresses are taken only from the tailnet's
ranges (tailscale.com/net/tsaddr), one of each.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import errors
from ..tailnet import Address, is_tailnet

if TYPE_CHECKING:
    from ..state.attachments import Attachment

LARGEST_ANSWER = 16 * 2**20
HOST = "local-tailscaled.sock"


@dataclass(frozen=True)
class Node:
    """What the LocalAPI says of the node itself.

    ``state`` is the backend's: NeedsLogin, Starting, Running, …
    """

    state: str
    name: str
    addresses: tuple[Address, ...]
    online: bool
    tags: tuple[str, ...]
    node_id: str
    asked: int = 0
    """When it was asked: it says all that had happened by then. CLOCK_MONOTONIC, in nanoseconds."""
    peers: tuple[Address, ...] = ()
    paths: tuple[str, ...] = ()
    """Per peer that is active: ``direct`` or ``relay``."""
    last_handshake: str = ""

    @property
    def running(self) -> bool:
        """Whether it is on the tailnet, with an address."""
        return self.state == "Running" and bool(self.addresses)


class _Socket(socket.socket):
    """A unix socket that hears no more than one answer, and no longer than it may, however slowly it comes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.settimeout(seconds)
        self.deadline = time.monotonic() + seconds
        self.heard = 0

    def recv_into(self, *arguments: Any) -> int:
        """What ``makefile`` reads with, and so all of http.client."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        count = super().recv_into(*arguments)
        self.heard += count
        if self.heard > LARGEST_ANSWER:
            raise OSError(f"its answer is larger than {LARGEST_ANSWER} bytes")
        return count


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(HOST)
        self.path = path
        self.seconds = seconds

    def connect(self) -> None:
        self.sock = _Socket(self.seconds)
        self.sock.connect(self.path)


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

    def _call(self, method: str, target: str) -> bytes:
        connection = _Connection(self.path, self.seconds)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = response.read(LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as e:  # ValueError: of a chunk's length
            raise self._failed(errors.show(str(e) or type(e).__name__)) from None
        finally:
            connection.close()
        if response.status >= 300:
            raise self._failed(f"{response.status}: {errors.show(body.decode(errors='replace'))}")
        return body

    def _failed(self, reason: str) -> errors.LocalApiFailed:
        return errors.LocalApiFailed(reason=reason, log=self.log)


def _node(status: dict[str, Any], asked: int) -> Node:
    own = _dict(status.get("Self"))
    peers = [_dict(peer) for peer in _dict(status.get("Peer")).values()]
    active = [peer for peer in peers if peer.get("Active") is True]
    return Node(
        state=_text(status.get("BackendState")),
        name=_text(own.get("DNSName")).rstrip("."),
        addresses=_one_of_each(tailnet_addresses(status.get("TailscaleIPs"))),
        online=own.get("Online") is True,
        tags=tuple(_text(tag) for tag in _list(own.get("Tags"))),
        node_id=_text(own.get("ID")),
        asked=asked,
        peers=tuple(address for peer in peers for address in tailnet_addresses(peer.get("TailscaleIPs"))),
        paths=tuple("direct" if peer.get("CurAddr") else "relay" for peer in active),
        last_handshake=max((_text(peer.get("LastHandshake")) for peer in peers), default=""),
    )


def tailnet_addresses(value: object) -> tuple[Address, ...]:
    """The addresses of a JSON list that are within the tailnet's ranges.

    Whatever else is in it is left out.
    """
    found = []
    for text in _list(value):
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


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """At most a domain name, printable: names of nodes come from whoever chose them."""
    return "".join(c for c in value if c.isprintable())[:255] if isinstance(value, str) else ""
