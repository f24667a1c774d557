"""Somebody else on the tailnet: the real tailscaled and tailscale, in a namespace of their own."""

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
    """A phone or a laptop, with a kernel interface of its own or, ``userspace``, without one.

    Its mount namespace is private too, because tailscaled writes ``/etc/resolv.conf``. ``netns`` is one that is already on the
    wire (then it stays the caller's), or a new one. ``key`` says whose it is, or which tags it has.
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
        """Log out, and end."""
        with contextlib.suppress(Failed):
            self.tailscale("logout")
        self._daemon.close()

    def tailscale(self, *arguments: str) -> str:
        """What the tailscale command line prints. Raises Failed."""
        return run(
            [
                tools.clients() / "tailscale",
                f"--socket={self.root / 'sock'}",
                *arguments,
            ]
        )

    @property
    def process(self) -> Process:
        """Its tailscaled."""
        process = Process.of(self._daemon.pid)
        assert process
        return process

    def status(self) -> dict[str, Any]:
        """``tailscale status --json``."""
        status: dict[str, Any] = json.loads(self.tailscale("status", "--json"))
        return status

    @property
    def addresses(self) -> list[str]:
        """Its tailnet addresses, IPv4 first."""
        addresses: list[str] = self.status()["Self"]["TailscaleIPs"]
        return addresses

    def ping(self, name: str) -> str:
        """A disco ping to a node, tried for some seconds; what tailscale says of the path. Raises Failed when there is no answer.

        A control plane may tell us of a node's name before it knows how to reach the node: Headscale does.
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
        """A page, the name resolved as on any machine of a tailnet. Raises Failed."""
        if self.userspace:
            return self._via_proxy(url)
        return run(self._inside(*traffic.INSIDE, "fetch", url)).strip()

    def resolve(self, name: str) -> list[str]:
        """The addresses that the peer's own resolver gives for a name; none if it does not know it."""
        done = attempt(self._inside("getent", "ahosts", name))
        return sorted({line.split()[0] for line in done.stdout.decode().splitlines()})

    def _inside(self, *argv: str | Path) -> list[str | Path]:
        """In its network and mount namespaces, where its resolv.conf is."""
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
        )  # nobody is there; tailscaled leaves a machine without a resolver alone
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
