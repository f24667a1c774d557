"""Traffic between namespaces: pages, conversations and datagrams. The programs are in ``inside.py``."""

from __future__ import annotations

import select
import sys
from pathlib import Path

from .actor import Actor
from .netns import Netns
from .process import Daemon, Failed, attempt

INSIDE: list[str | Path] = [
    sys.executable,
    "-IS",
    Path(__file__).with_name("inside.py"),
]


def web_server(netns: Netns, log: Path, *, port: int = 80, text: str = "hello") -> Daemon:
    """Start a web server that answers every GET with ``text``, a space and the client's address."""
    return _ready(netns, log, "web", str(port), text)


def fetch(netns: Netns, url: str, *, source: str | None = None) -> str:
    """Fetch a page from inside a namespace, and return its text. Raises Failed."""
    return netns.run(*INSIDE, "fetch", url, *(["--source", source] if source else [])).strip()


def reaches(netns: Netns, url: str, *, seconds: float = 3) -> bool:
    """Whether a page can be fetched from inside a namespace: False if packets are dropped or there is no route. Raises Failed otherwise.

    With dropped packets, this takes ``seconds``. There is no route to a node that a policy hides.
    """
    done = attempt(netns.within(*INSIDE, "fetch", url, "--seconds", str(seconds)))
    said = done.stderr.decode()
    if done.returncode and not ("timed out" in said or "Network is unreachable" in said):
        raise Failed(said)
    return not done.returncode


def echo_server(netns: Netns, log: Path, *, port: int = 7) -> Daemon:
    """Start a TCP server that sends back every line."""
    return _ready(netns, log, "echo", str(port))


def sink(netns: Netns, log: Path, *, port: int = 19) -> Daemon:
    """Start a TCP server that reads what ``pour`` sends."""
    return _ready(netns, log, "sink", str(port))


def pour(netns: Netns, address: str, size: int, *, port: int = 19) -> int:
    """Send ``size`` bytes over a TCP connection at full speed, and return how many arrived. Raises Failed."""
    return int(netns.run(*INSIDE, "pour", address, str(port), str(size), timeout=300) or 0)


def inbox(netns: Netns, log: Path, *, port: int = 9) -> Daemon:
    """Start a UDP server; its standard output has a line per datagram: the sender's address, and the text."""
    return _ready(netns, log, "inbox", str(port))


def send(netns: Netns, address: str, text: str, *, port: int = 9, source: str | None = None) -> None:
    """Send one UDP datagram. Raises Failed."""
    netns.run(
        *INSIDE,
        "send",
        address,
        str(port),
        text,
        *(["--source", source] if source else []),
    )


class Conversation(Actor):
    """A TCP connection to an echo server, which stays open until it is closed."""

    def __init__(self, netns: Netns, log: Path, host: str, *, port: int = 7) -> None:
        self._daemon = _ready(netns, log, "talk", host, str(port))

    def close(self) -> None:
        """End the connection."""
        self._daemon.close()

    def say(self, line: str) -> None:
        """Send a line."""
        self._daemon.stdin.write(f"{line}\n".encode())
        self._daemon.stdin.flush()

    def heard(self) -> str:
        """Wait for the next line that comes back, and return it; empty if the connection has ended."""
        return self._daemon.stdout.readline().decode().strip()

    def heard_within(self, seconds: float) -> str:
        """Wait up to ``seconds`` for the next line, and return it. Raises TimeoutError."""
        readable, _, _ = select.select([self._daemon.stdout], [], [], seconds)
        if not readable:
            raise TimeoutError(f"nothing came back within {seconds:g} s")
        return self.heard()


def _ready(netns: Netns, log: Path, *arguments: str) -> Daemon:
    daemon = netns.daemon([*INSIDE, *arguments], log)
    daemon.first_line()
    return daemon
