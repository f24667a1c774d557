"""Another device of the tailnet: the real tailscaled and tailscale, in their own network namespace."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from . import tools, traffic
from .actor import Actor
from .controlplane import AuthKey, ControlPlane
from .netns import Netns
from .process import Daemon, Failed, Process, attempt, run, with_bind
from .wait import POLL_SECONDS, pass_time, wait_until

PROXY = "127.0.0.1:1080"
PING_SECONDS = 8.0
VIA_PROXY = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": sys.argv[1]}))
print(opener.open(sys.argv[2], timeout=10).read().decode())
"""


class Peer(Actor):
    """A phone or a laptop, with a kernel interface or, with ``userspace``, without one.

    It also has its own mount namespace, because tailscaled writes ``/etc/resolv.conf``. ``netns`` must be plugged into the wire, and
    is not removed with the peer. ``key`` determines the peer's user or tags.
    """

    def __init__(
        self,
        control: ControlPlane,
        netns: Netns,
        root: Path,
        name: str,
        *,
        userspace: bool = False,
        key: AuthKey | None = None,
    ) -> None:
        root.mkdir(parents=True)
        self.control, self.netns, self.root, self.name, self.userspace = (
            control,
            netns,
            root,
            name,
            userspace,
        )
        self._daemon = self._start_daemon()
        self._register(key or control.mint(tags=["tag:peer"]))

    def close(self) -> None:
        """Log out, and stop tailscaled."""
        with contextlib.suppress(Failed):
            self.tailscale("logout")
        self._daemon.close()

    def tailscale(self, *arguments: str) -> str:
        """Run the tailscale command, and return what it prints. Raises Failed."""
        return run(
            [
                tools.clients() / "tailscale",
                f"--socket={self.root / 'sock'}",
                *arguments,
            ]
        )

    @property
    def process(self) -> Process:
        """The peer's tailscaled."""
        process = Process.of(self._daemon.pid)
        assert process
        return process

    def status(self) -> dict[str, Any]:
        """The parsed output of ``tailscale status --json``."""
        status: dict[str, Any] = json.loads(self.tailscale("status", "--json"))
        return status

    @property
    def addresses(self) -> list[str]:
        """The peer's tailnet addresses, IPv4 first."""
        addresses: list[str] = self.status()["Self"]["TailscaleIPs"]
        return addresses

    def ping(self, name: str) -> str:
        """Send disco pings to a node for up to 8 seconds, and return tailscale's line about the path. Raises Failed without an answer.

        Headscale may announce a node's name before it announces how to reach the node.
        """
        deadline = time.monotonic() + PING_SECONDS
        while True:
            try:
                return self.tailscale("ping", "--c=1", "--timeout=1s", "--until-direct=false", name)
            except Failed:
                if time.monotonic() > deadline:
                    raise
            pass_time(POLL_SECONDS)

    def fetch(self, url: str) -> str:
        """Fetch a page by the name that the peer's resolver knows, and return its text. Raises Failed."""
        if self.userspace:
            return self._via_proxy(url)
        return run(self._inside(*traffic.INSIDE, "fetch", url)).strip()

    def resolve(self, name: str) -> list[str]:
        """The addresses that the peer's own resolver returns for a name; empty for an unknown name."""
        done = attempt(self._inside("getent", "ahosts", name))
        return sorted({line.split()[0] for line in done.stdout.decode().splitlines()})

    def _inside(self, *argv: str | Path) -> list[str | Path]:
        """The command line that runs ``argv`` in the peer's network and mount namespaces, where its resolv.conf is."""
        return [
            "nsenter",
            f"--net={self.netns.path}",
            f"--mount=/proc/{self._daemon.pid}/ns/mnt",
            "--",
            *argv,
        ]

    def _via_proxy(self, url: str) -> str:
        return self.netns.run(sys.executable, "-IS", "-c", VIA_PROXY, f"http://{PROXY}", url).strip()

    def _start_daemon(self) -> Daemon:
        resolv = self.root / "resolv.conf"
        resolv.write_text(
            "nameserver 192.0.2.53\n"
        )  # no server has this address; tailscaled changes nothing on a machine without a resolver
        tun = "userspace-networking" if self.userspace else "tailscale0"
        argv: list[str | Path] = [
            tools.clients() / "tailscaled",
            f"--tun={tun}",
            "--port=0",
            "--no-logs-no-support",
        ]
        argv += [f"--statedir={self.root}", f"--socket={self.root / 'sock'}"]
        if self.userspace:
            argv.append(f"--outbound-http-proxy-listen={PROXY}")
        private = with_bind(resolv, Path("/etc/resolv.conf"))
        env = {
            "TS_DEBUG_FIREWALL_MODE": "nftables",
            "TS_DISABLE_PORTMAPPER": "1",
            "HOME": str(self.root),
            "PATH": os.defpath + ":/usr/sbin:/sbin",
        }
        daemon = Daemon(self.netns.within(*private, *argv), log=self.root / "log", env=env)
        wait_until((self.root / "sock").exists, what="tailscaled's socket")
        return daemon

    def _register(self, key: AuthKey) -> None:
        file = self.root / "authkey"
        file.touch(0o600)
        file.write_text(key.key)
        options = [
            f"--login-server={self.control.url}",
            f"--auth-key=file:{file}",
            f"--hostname={self.name}",
        ]
        self.tailscale("up", *options, "--netfilter-mode=off", "--timeout=20s")
