"""The anchor: what a pod would otherwise run. This is tailscaled, as a sidecar or the operator starts it, and ``tailscale up``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.kit import tools
from tests.kit.controlplane import ControlPlane
from tests.kit.netns import Netns
from tests.kit.process import Daemon, attempt, run, with_bind
from tests.kit.wait import wait_until


class Sidecar:
    """tailscaled with a kernel interface or, with ``userspace``, without one, in a namespace that can reach the control plane.

    It is configured as in Tailscale's container image: it chooses a firewall itself, and iptables is installed. Only its log upload is off,
    as for our worker. `start`, which includes ``tailscale up``, is what the bench measures.
    """

    def __init__(self, control: ControlPlane, netns: Netns, root: Path, *, userspace: bool = False) -> None:
        root.mkdir()
        (root / "resolv.conf").touch()
        self.root, self.netns = root, netns
        key = root / "authkey"
        key.touch(0o600)
        key.write_text(control.mint(tags=["tag:peer"]).key)
        self._socket = root / "sock"
        daemon: list[str | Path] = [
            tools.clients() / "tailscaled",
            f"--tun={'userspace-networking' if userspace else 'tailscale0'}",
            "--port=0",
        ]
        daemon += ["--no-logs-no-support", f"--statedir={root}", f"--socket={self._socket}"]
        self._daemon_argv = netns.within(*with_bind(root / "resolv.conf", Path("/etc/resolv.conf")), *daemon)
        self._client: list[str | Path] = [tools.clients() / "tailscale", f"--socket={self._socket}"]
        self._up = [f"--login-server={control.url}", f"--auth-key=file:{key}", f"--hostname={root.name}"]
        self._daemon: Daemon | None = None

    def start(self) -> None:
        """Start tailscaled and run ``tailscale up``; return when the node has its address."""
        env = {"TS_DISABLE_PORTMAPPER": "1", "HOME": str(self.root), "PATH": os.defpath + ":/usr/sbin:/sbin"}
        self._daemon = Daemon(self._daemon_argv, log=self.root / "log", env=env)
        wait_until(self._socket.exists, what="tailscaled's socket", poll=0.001)
        run([*self._client, "up", *self._up, "--timeout=60s"], timeout=90)

    @property
    def address(self) -> str:
        """The node's IPv4 tailnet address."""
        return run([*self._client, "ip", "-4"]).strip()

    def close(self) -> None:
        """Log out, and stop tailscaled."""
        if self._daemon:
            wait_until(self._logs_out, what=f"the logout of {self.root.name}")
            self._daemon.close()

    def _logs_out(self) -> bool:
        """Whether the node is logged out. The first answer is lost if another of tailscaled's calls to the control plane ends just then."""
        done = attempt([*self._client, "logout"])
        return done.returncode == 0 or b"no nodekey to log out" in done.stderr


@contextlib.contextmanager
def sidecar(control: ControlPlane, netns: Netns, root: Path, *, userspace: bool = False) -> Iterator[Sidecar]:
    """A sidecar that is not started yet; it logs out at the end of the block."""
    made = Sidecar(control, netns, root, userspace=userspace)
    try:
        yield made
    finally:
        made.close()
