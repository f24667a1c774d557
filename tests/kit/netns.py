"""Network namespaces with a name, and a testinfra backend that looks into them."""

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
NSENTER = shutil.which("nsenter") or "nsenter"  # found here: what runs inside may have any PATH


class NetnsBackend(LocalBackend):  # type: ignore[misc]  # testinfra has no types
    """testinfra's local backend, in another network namespace."""

    NAME = "netns"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """One shell command, in the namespace."""
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
        """What CNI_NETNS says."""
        return RUN_NETNS / self.name

    @property
    def inode(self) -> int:
        """What the kernel calls it, as long as it lives."""
        return self.path.stat().st_ino

    def open(self) -> None:
        """Make it; after ``close``, another one of the same name."""
        run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        """Take the name away; the namespace ends with the last process in it. Not an error if it is gone."""
        if self.path.exists():
            run(["ip", "netns", "delete", self.name])

    def within(self, *argv: str | Path) -> list[str | Path]:
        """That command line, in the namespace."""
        return [NSENTER, f"--net={self.path}", "--", *argv]

    def run(self, *argv: str | Path, stdin: str = "", timeout: float = 60.0) -> str:
        """What a program prints in the namespace. Raises Failed."""
        return run(self.within(*argv), stdin=stdin, timeout=timeout)

    def attempt(
        self, *argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A program that may fail, in the namespace."""
        return attempt(self.within(*argv), stdin=stdin, env=env)

    def daemon(self, argv: Argv, log: Path) -> Daemon:
        """A program that goes on in the namespace."""
        return Daemon(self.within(*argv), log=log, env=CLEAN)

    def ip(self, *arguments: str) -> Any:
        """What ``ip`` says, as JSON."""
        return json.loads(self.run("ip", "-json", *arguments) or "[]")

    def rules(self) -> list[str]:
        """The routing rules, v4 and v6, one a line."""
        return (self.run("ip", "-4", "rule") + self.run("ip", "-6", "rule")).splitlines()

    def links(self) -> set[str]:
        """The names of its interfaces."""
        return {link["ifname"] for link in self.ip("link")}

    @cached_property
    def infra(self) -> Infra:
        """testinfra's host, seen from within."""
        return Infra(NetnsBackend(self.path))

    def interface(self, name: str) -> Any:
        """testinfra's interface of that name."""
        return self.infra.interface(name)
