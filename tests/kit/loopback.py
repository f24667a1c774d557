"""A control plane and one of its devices on the loopback interface, for tests that need neither namespaces nor root."""

from __future__ import annotations

import json
import os
from pathlib import Path

from . import tools
from .actor import Actor
from .controlplane import Tailnet
from .process import Daemon, run
from .wait import wait_until


class LoopbackControlPlane(Tailnet, Actor):
    """One tailnet and its APIs, over HTTP and, with a certificate that no client trusts, over HTTPS."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        super().__init__(root / "admin.sock")
        self._daemon = Daemon([tools.devcontrol(), "--admin", root / "admin.sock"], log=root / "log")
        self.url: str = json.loads(self._daemon.first_line())["control"]

    def close(self) -> None:
        """Stop the control plane."""
        self._daemon.close()


class Device(Actor):
    """A device of the tailnet: tailscaled without a network interface."""

    def __init__(self, url: str, root: Path, name: str, key: str) -> None:
        root.mkdir(parents=True)
        self._socket = root / "sock"
        argv: list[str | Path] = [tools.clients() / "tailscaled", "--tun=userspace-networking", "--port=0"]
        argv += ["--no-logs-no-support", f"--statedir={root}", f"--socket={self._socket}"]
        env = {"TS_DISABLE_PORTMAPPER": "1", "HOME": str(root), "PATH": os.defpath}
        self._daemon = Daemon(argv, log=root / "log", env=env)
        wait_until(self._socket.exists, what="tailscaled's socket")
        secret = root / "authkey"
        secret.touch(0o600)
        secret.write_text(key)
        tailscale: list[str | Path] = [tools.clients() / "tailscale", f"--socket={self._socket}"]
        options = [f"--login-server={url}", f"--auth-key=file:{secret}", f"--hostname={name}"]
        run([*tailscale, "up", *options, "--timeout=20s"])

    def close(self) -> None:
        """Stop tailscaled; the device goes offline."""
        self._daemon.close()
