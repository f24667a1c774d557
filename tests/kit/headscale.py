"""A real Headscale as the tests' control plane: ``HEADSCALE=/path/to/headscale`` names the program.

It replaces devcontrol as far as Headscale can; tests that need more of a control plane are skipped.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni import linux

from .controlplane import PORT as RELAY_PORT
from .controlplane import STUN_PORT, AuthKey, ControlPlane
from .netns import Netns
from .process import Daemon, run
from .wait import wait_until
from .wire import Wire

PROGRAM = os.environ.get("HEADSCALE", "")
PORT = 8000
DOMAIN = "tailnet.test"
OWNED = ("tag:k8s-cni", "tag:k8s-pod", "tag:media", "tag:admin", "tag:peer")


def configure(root: Path, address: str, port: int) -> list[str | Path]:
    """Write the files of a Headscale in ``root``, and return the beginning of its command line. It listens on ``address`` and ``port``.

    Its DERP map names devcontrol's relay at the same address, whether devcontrol runs or not.
    """
    relay = {
        "name": "900a",
        "regionid": 900,
        "hostname": address,
        "ipv4": address,
        "ipv6": "none",
        "derpport": RELAY_PORT,
        "stunport": STUN_PORT,
        "insecurefortests": True,
    }
    region = {"regionid": 900, "regioncode": "dev", "regionname": "Development", "nodes": [relay]}
    policy = {
        "tagOwners": {tag: [] for tag in OWNED},
        "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
    }
    config = {
        "server_url": f"http://{address}:{port}",
        "listen_addr": f"{address}:{port}",
        "metrics_listen_addr": "",
        "grpc_listen_addr": "127.0.0.1:0",
        "unix_socket": f"{root}/headscale.sock",
        "noise": {"private_key_path": f"{root}/noise.key"},
        "prefixes": {"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48", "allocation": "sequential"},
        "derp": {
            "server": {"enabled": False},
            "urls": [],
            "paths": [f"{root}/derp.yaml"],
            "auto_update_enabled": False,
        },
        "disable_check_updates": True,
        "database": {"type": "sqlite", "sqlite": {"path": f"{root}/db.sqlite"}},
        "dns": {
            "magic_dns": True,
            "base_domain": DOMAIN,
            "override_local_dns": False,
            "nameservers": {"global": []},
        },
        "policy": {"mode": "file", "path": f"{root}/policy.hujson"},
    }
    # JSON is also YAML, except for the key, which must be a number.
    (root / "derp.yaml").write_text(f"regions: {{900: {json.dumps(region)}}}", encoding="utf-8")
    (root / "policy.hujson").write_text(json.dumps(policy), encoding="utf-8")
    (root / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return [PROGRAM, "--config", root / "config.yaml"]


class _Connection(http.client.HTTPConnection):
    """A connection to a server in a network namespace."""

    def __init__(self, netns: Netns, address: str) -> None:
        super().__init__(address, PORT, timeout=10)
        self._netns = netns

    def connect(self) -> None:
        with linux.in_netns(str(self._netns.path)):
            super().connect()


class HeadscaleControlPlane(ControlPlane):
    """A tailnet run by Headscale; devcontrol is only its relay. `stop` kills Headscale."""

    def __init__(self, wire: Wire, root: Path) -> None:
        self._headscale: Daemon | None = None
        self._api_key = ""
        super().__init__(wire, root)

    def start(self) -> None:
        """Start Headscale and the relay, and wait until Headscale answers."""
        super().start()
        if self._headscale:
            return
        self.domain = DOMAIN
        self.url = f"http://{self.address}:{PORT}"
        command = configure(self.root, self.address, PORT)
        self._headscale = self.netns.daemon([*command, "serve"], self.root / "headscale.log")
        wait_until(self._answers, what=f"Headscale ({self.root}/headscale.log)")
        if not self._api_key:
            self._api_key = run([*command, "apikeys", "create"]).split()[-1]

    def stop(self) -> None:
        """Kill Headscale, and stop the relay; the nodes continue to run."""
        if self._headscale:
            os.kill(self._headscale.pid, signal.SIGKILL)
            self._headscale.close()
            self._headscale = None
        super().stop()

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
        """A new pre-auth key, for tagged nodes."""
        if user or foreign:
            pytest.skip("with a real Headscale, all nodes of the tests have tags")
        wanted = {
            "reusable": reusable,
            "ephemeral": ephemeral,
            "aclTags": list(tags),
            "expiration": _in(expiry_seconds),
        }
        made = self._ask("POST", "/api/v1/preauthkey", wanted)["preAuthKey"]
        return AuthKey(made["id"], made["key"])

    def auth_keys(self) -> list[dict[str, Any]]:
        """All auth keys; the ID is the visible part of the key."""
        keys = self._ask("GET", "/api/v1/preauthkey")["preAuthKeys"]
        return [
            {
                "id": key["key"].removesuffix("-***"),
                "tags": key["aclTags"],
                **{name: key[name] for name in ("ephemeral", "reusable", "used")},
                "expires": key["expiration"],
            }
            for key in keys
        ]

    def expire_key(self, key: AuthKey) -> None:
        """Let the key expire: it registers no more nodes."""
        self._ask("POST", "/api/v1/preauthkey/expire", {"id": key.id})

    def new_api_key(self, expiry_seconds: int = 3600) -> str:
        """A new key for Headscale's API."""
        key: str = self._ask("POST", "/api/v1/apikey", {"expiration": _in(expiry_seconds)})["apiKey"]
        return key

    def new_user(self, name: str) -> str:
        """Create a user, and return its ID."""
        return str(self._ask("POST", "/api/v1/user", {"name": name})["user"]["id"])

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, in the format of devcontrol."""
        return [
            {
                "id": node["id"],
                "nodeKey": node["nodeKey"],
                "name": node["givenName"],
                "fqdn": f"{node['givenName']}.{DOMAIN}",
                "hostname": node["name"],
                "addresses": node["ipAddresses"],
                "tags": node["tags"],
                "ephemeral": (node["preAuthKey"] or {}).get("ephemeral", False),
                "online": node["online"],
            }
            for node in self._ask("GET", "/api/v1/node")["nodes"]
        ]

    def delete_node(self, node_id: str, *, runs: bool = True) -> None:
        """Delete a node, as an admin does. If it ``runs``, restart Headscale: a node learns of this only when its connection ends."""
        with contextlib.suppress(FileNotFoundError):
            self._ask("DELETE", f"/api/v1/node/{node_id}")
        if runs:
            self.stop()
            self.start()

    def _call(self, method: str, path: str, body: object = ...) -> Any:
        """Skip the test, because it needs an operation that only devcontrol has."""
        pytest.skip(f"a real Headscale has no {method} {path} of devcontrol's")

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/health")
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request to Headscale's API, as an admin. Raises FileNotFoundError for 404, RuntimeError for other errors."""
        connection = _Connection(self.netns, self.address)
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status == 404:
            raise FileNotFoundError(path)
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer!r}")
        return json.loads(answer)


def _in(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
