"""Network namespaces with names, and a testinfra backend that runs inside them."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

from testinfra.backend.base import CommandResult
from testinfra.backend.local import LocalBackend
from testinfra.host import Host as Infra

from .actor import Actor
from .process import CLEAN, Argv, Daemon, attempt, run

RUN_NETNS = Path("/run/netns")
NSENTER = shutil.which("nsenter") or "nsenter"  # resolved here, because programs inside may have any PATH


class NetnsBackend(LocalBackend):  # type: ignore[misc]  # testinfra has no types
    """testinfra's local backend, in another network namespace."""

    NAME = "netns"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a shell command in the namespace."""
        inside = self.get_command(command, *args)
        return self.run_local("nsenter --net=%s -- sh -c %s", str(self.path), inside)


class Netns(Actor):
    """A network namespace under ``/run/netns``, with ``lo`` up."""

    def __init__(self, label: str) -> None:
        self.name = f"tscni-{secrets.token_hex(4)}-{label}"
        self.open()

    def __repr__(self) -> str:
        return f"<netns {self.name}>"

    @property
    def path(self) -> Path:
        """The value of CNI_NETNS."""
        return RUN_NETNS / self.name

    @property
    def inode(self) -> int:
        """The inode number, which identifies the namespace to the kernel while it exists."""
        return self.path.stat().st_ino

    def open(self) -> None:
        """Create the namespace; after ``close``, create a new one with the same name."""
        run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove the name; the namespace ends with its last process. Does nothing if the name is gone."""
        if self.path.exists():
            run(["ip", "netns", "delete", self.name])

    def within(self, *argv: str | Path) -> list[str | Path]:
        """The command line that runs ``argv`` in the namespace."""
        return [NSENTER, f"--net={self.path}", "--", *argv]

    def run(self, *argv: str | Path, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program in the namespace, and return what it prints. Raises Failed."""
        return run(self.within(*argv), stdin=stdin, timeout=timeout)

    def attempt(
        self, *argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program that may fail in the namespace."""
        return attempt(self.within(*argv), stdin=stdin, env=env)

    def daemon(self, argv: Argv, log: Path) -> Daemon:
        """Start a daemon in the namespace."""
        return Daemon(self.within(*argv), log=log, env=CLEAN)

    def ip(self, *arguments: str) -> Any:
        """The JSON output of ``ip``, parsed."""
        return json.loads(self.run("ip", "-json", *arguments) or "[]")

    def rules(self) -> list[str]:
        """The routing rules for IPv4 and IPv6, one per line."""
        return (self.run("ip", "-4", "rule") + self.run("ip", "-6", "rule")).splitlines()

    def links(self) -> set[str]:
        """The names of the namespace's interfaces."""
        return {link["ifname"] for link in self.ip("link")}

    @cached_property
    def infra(self) -> Infra:
        """testinfra's view of the host from inside the namespace."""
        return Infra(NetnsBackend(self.path))

    def interface(self, name: str) -> Any:
        """testinfra's interface with that name."""
        return self.infra.interface(name)
