"""What a pod would run otherwise: tailscaled, as a sidecar or the operator starts it, and ``tailscale up``."""

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
    """tailscaled with a kernel interface or, ``userspace``, without one, in a namespace that has a way to the control plane.

    As Tailscale's container image starts it: with its own choice of a firewall, and iptables at hand. Only its logs are off, as ours
    are. ``start`` and ``up`` are what is measured.
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
        """From nothing to a node with its address."""
        env = {"TS_DISABLE_PORTMAPPER": "1", "HOME": str(self.root), "PATH": os.defpath + ":/usr/sbin:/sbin"}
        self._daemon = Daemon(self._daemon_argv, log=self.root / "log", env=env)
        wait_until(self._socket.exists, what="tailscaled's socket", poll=0.001)
        run([*self._client, "up", *self._up, "--timeout=60s"], timeout=90)

    @property
    def address(self) -> str:
        """Its IPv4 address on the tailnet."""
        return run([*self._client, "ip", "-4"]).strip()

    def close(self) -> None:
        """Log out, and end."""
        if self._daemon:
            wait_until(self._logs_out, what=f"the logout of {self.root.name}")
            self._daemon.close()

    def _logs_out(self) -> bool:
        """Whether it does, or has: the first answer is lost where a call of its own to the control plane ends at that moment."""
        done = attempt([*self._client, "logout"])
        return done.returncode == 0 or b"no nodekey to log out" in done.stderr


@contextlib.contextmanager
def sidecar(control: ControlPlane, netns: Netns, root: Path, *, userspace: bool = False) -> Iterator[Sidecar]:
    """One that is not started yet, and logs out at the end."""
    made = Sidecar(control, netns, root, userspace=userspace)
    try:
        yield made
    finally:
        made.close()
