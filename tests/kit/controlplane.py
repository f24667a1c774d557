"""The tests' control plane: devcontrol in its own network namespace, controlled through its admin socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import tools
from .actor import Actor
from .netns import Netns
from .process import Daemon
from .unixhttp import UnixConnection
from .wire import Wire

PORT = 8080
STUN_PORT = 3478


@dataclass(frozen=True)
class AuthKey:
    """A key that registers nodes."""

    id: str
    key: str


@dataclass(frozen=True)
class Client:
    """An OAuth client of Tailscale's API."""

    id: str
    secret: str


class Tailnet:
    """An admin's operations on a tailnet, through devcontrol's admin socket."""

    def __init__(self, admin: Path) -> None:
        self._admin = admin

    def mint(
        self,
        *,
        reusable: bool = True,
        ephemeral: bool = True,
        tags: Sequence[str] = ("tag:k8s-pod",),
        user: str = "",
        foreign: bool = False,
        expiry_seconds: int = 3600,
    ) -> AuthKey:
        """A new auth key. Without tags, it registers nodes of ``user`` (default: the owner), who with ``foreign`` has another tailnet."""
        wanted = {
            "reusable": reusable,
            "ephemeral": ephemeral,
            "tags": list(tags),
            "user": user,
            "foreign": foreign,
            "expirySeconds": expiry_seconds,
        }
        return AuthKey(**self._call("POST", "/keys", wanted))

    def auth_keys(self) -> list[dict[str, Any]]:
        """All auth keys, each with id, tags, ephemeral, reusable, used, expires."""
        keys: list[dict[str, Any]] = self._call("GET", "/keys")
        return keys

    def expire_key(self, key: AuthKey) -> None:
        """Let the key expire: it registers no more nodes."""
        self._call("POST", f"/keys/{key.id}/expire")

    def new_client(
        self,
        *,
        tags: Sequence[str] = ("tag:k8s-pod",),
        scopes: Sequence[str] = ("auth_keys", "devices:core"),
    ) -> Client:
        """A new OAuth client."""
        made = self._call("POST", "/clients", {"tags": list(tags), "scopes": list(scopes)})
        return Client(made["id"], made["secret"])

    def revoke_client(self, client: Client) -> None:
        """Revoke the client and its tokens."""
        self._call("POST", f"/clients/{client.id}/revoke")

    def new_api_key(self, expiry_seconds: int = 3600) -> str:
        """A new key for Headscale's API."""
        key: str = self._call("POST", "/apikeys", {"expirySeconds": expiry_seconds})["key"]
        return key

    def new_user(self, name: str) -> str:
        """Create a user of Headscale, and return its ID."""
        return str(self._call("POST", "/users", {"name": name})["id"])

    def set_tag_owners(self, owners: Mapping[str, Sequence[str]] | None) -> None:
        """Set the tag owners of the policy file; None removes the section, and everybody may assign every tag."""
        self._call("PUT", "/tagowners", owners)

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, each with id, nodeKey, name, fqdn, hostname, addresses, tags, ephemeral, online."""
        nodes: list[dict[str, Any]] = self._call("GET", "/nodes")
        return nodes

    def node(self, name: str) -> dict[str, Any] | None:
        """The node of that name, if there is one."""
        return next((node for node in self.nodes() if node["name"] == name), None)

    def delete_node(self, node_id: str, *, runs: bool = True) -> None:
        """Delete a node, as an admin does. If it ``runs``, the node learns of it."""
        self._call("DELETE", f"/nodes/{node_id}")

    def add_stranger(self, name: str) -> str:
        """Add a node that is online but runs nowhere, to enlarge the tailnet; return its ID."""
        return str(self._call("POST", "/nodes", {"hostname": name, "tags": ["tag:peer"]})["id"])

    def appear(self, node_id: str, *, online: bool) -> None:
        """Let a node that runs nowhere go online or offline."""
        self._call("POST", f"/nodes/{node_id}/online", {"online": online})

    def share(self, node_id: str, user: str) -> None:
        """Share a node with a user of another tailnet."""
        self._call("POST", f"/nodes/{node_id}/share", {"user": user})

    @contextlib.contextmanager
    def policy(self, file: Path) -> Iterator[None]:
        """Apply a policy file for the length of a block; afterwards everything is permitted again. Raises RuntimeError if it is invalid."""
        self._call("POST", "/policy", file.read_text(encoding="utf-8"))
        try:
            yield
        finally:
            self._call("DELETE", "/policy")

    def _call(self, method: str, path: str, body: object = ...) -> Any:
        connection = UnixConnection(self._admin, "admin")
        try:
            text = body if isinstance(body, str) else None if body is ... else json.dumps(body)
            connection.request(method, path, text)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer!r}")
        return json.loads(answer) if answer else None


class ControlPlane(Tailnet, Actor):
    """One tailnet, with DERP, STUN and MagicDNS. It can be stopped and started again, and keeps its nodes.

    The nodes receive each other's changes at once or, with ``batch`` (such as 800ms, Headscale's), once per interval.
    """

    def __init__(self, wire: Wire, root: Path, *, batch: str = "0s") -> None:
        root.mkdir(parents=True)
        self._batch = batch
        super().__init__(root / "admin.sock")
        self.root = root
        self.netns = Netns("control")
        self.address = wire.plug(self.netns).v4
        self.url = f"http://{self.address}:{PORT}"
        self._daemon: Daemon | None = None
        self.start()

    def close(self) -> None:
        """Stop the control plane, and remove its namespace."""
        self.stop()
        self.netns.close()

    def start(self) -> None:
        """Start the control plane, and wait until it answers."""
        if self._daemon:
            return
        argv: list[str | Path] = [
            tools.devcontrol(),
            "--listen",
            f"{self.address}:{PORT}",
            "--stun",
            f"{self.address}:{STUN_PORT}",
        ]
        argv += ["--admin", self._admin, "--state", self.root / "state.json", "--batch", self._batch]
        self._daemon = self.netns.daemon(argv, self.root / "log")
        self.domain: str = json.loads(self._daemon.first_line())["domain"]

    def stop(self) -> None:
        """Stop the control plane; the nodes continue to run."""
        if self._daemon:
            self._daemon.close()
            self._daemon = None

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Stop the control plane for the length of a block."""
        self.stop()
        try:
            yield
        finally:
            self.start()
