"""Programs that run inside a namespace for a test: a web server, a web client, a TCP conversation, a UDP inbox.

Run as a program, with the standard library only:

    web PORT TEXT            an HTTP server that answers TEXT and the client's address; prints "ready"
    fetch URL [--source A] [--seconds S]   prints the answer of a web server
    echo PORT                a TCP server that sends every line back; prints "ready"
    talk HOST PORT           a TCP connection: sends the lines of standard input, prints the lines that it receives
    sink PORT                a TCP server that reads everything, then sends the number of bytes; prints "ready"
    pour HOST PORT SIZE      sends SIZE bytes over a TCP connection, and prints the sink's answer
    inbox PORT               prints every UDP datagram that arrives; prints "ready"
    send ADDRESS PORT TEXT [--source A]   sends one UDP datagram
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import ipaddress
import socket
import socketserver
import sys
import threading
import urllib.parse

CONNECT_SECONDS = 10


class _DualStackTCP(socketserver.ThreadingTCPServer):
    """A TCP server that listens on IPv4 and IPv6."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Web(_DualStackTCP):
    text: str


class _Page(http.server.BaseHTTPRequestHandler):
    server: _Web

    def do_GET(self) -> None:
        body = f"{self.server.text} {_plain(self.client_address[0])}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Do not log requests."""


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _Sink(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = 0
        while read := len(self.request.recv(1 << 20)):
            size += read
        self.wfile.write(b"%d" % size)


def _plain(address: str) -> str:
    """``::ffff:10.0.0.1`` → ``10.0.0.1``."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return str(ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else str(ip)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def web(port: int, text: str) -> None:
    """Serve one page forever."""
    server = _Web(("::", port), _Page)
    server.text = text
    _say("ready")
    server.serve_forever()


def fetch(url: str, source: str | None, seconds: float) -> None:
    """Print the page at a URL. Raises OSError."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname
    local = (source, 0) if source else None
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, seconds, source_address=local)
    connection.request("GET", parts.path or "/")
    sys.stdout.write(connection.getresponse().read().decode())


def echo(port: int) -> None:
    """Send every line back, forever."""
    server = _DualStackTCP(("::", port), _Echo)
    _say("ready")
    server.serve_forever()


def sink(port: int) -> None:
    """Read everything, forever."""
    server = _DualStackTCP(("::", port), _Sink)
    _say("ready")
    server.serve_forever()


def pour(host: str, port: int, size: int) -> None:
    """Send ``size`` zero bytes, and print how many arrived. Raises OSError."""
    piece = bytes(1 << 20)
    with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
        connection.settimeout(None)
        while size:
            connection.sendall(piece[:size])
            size -= min(size, len(piece))
        connection.shutdown(socket.SHUT_WR)
        sys.stdout.write(connection.recv(100).decode())


def talk(host: str, port: int) -> None:
    """Forward lines in both directions until either side ends."""
    connection = socket.create_connection((host, port), CONNECT_SECONDS)
    connection.settimeout(None)
    _say("ready")

    def hear() -> None:
        for line in connection.makefile("rb"):
            _say(line.decode().rstrip())

    threading.Thread(target=hear, daemon=True).start()
    for line in sys.stdin.buffer:
        connection.sendall(line)


def inbox(port: int) -> None:
    """Print every datagram, forever."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    _say("ready")
    while True:
        data, sender = server.recvfrom(2048)
        _say(f"{_plain(sender[0])} {data.decode()}")


def send(address: str, port: int, text: str, source: str | None) -> None:
    """Send one datagram. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        if source:
            sender.bind((source, 0))
        sender.sendto(text.encode(), (address, port))


def main() -> None:
    """Parse the command line that the module's docstring describes."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, *arguments: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name)
        for argument in arguments:
            added.add_argument(argument, type=int if argument in ("port", "size") else str)
        return added

    command("web", "port", "text")
    fetching = command("fetch", "url")
    fetching.add_argument("--source")
    fetching.add_argument("--seconds", type=float, default=CONNECT_SECONDS)
    command("echo", "port")
    command("sink", "port")
    command("pour", "host", "port", "size")
    command("talk", "host", "port")
    command("inbox", "port")
    command("send", "address", "port", "text").add_argument("--source")
    options = vars(parser.parse_args())
    globals()[options.pop("command")](**options)


if __name__ == "__main__":
    main()
