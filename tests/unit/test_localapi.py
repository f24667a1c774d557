"""The client of a worker's LocalAPI: any answer of a hostile worker is one error, in time."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path

import pytest

from tailscale_cni import errors
from tailscale_cni.worker import localapi

Answer = Iterable[bytes]
Serve = Callable[[Answer], localapi.LocalApi]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Returns a function that starts a node which answers one request with these pieces, and returns its client."""
    with ExitStack() as stack:

        def start(answer: Answer) -> localapi.LocalApi:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = str(tmp_path / "local.sock")
            listener.bind(path)
            listener.listen()
            thread = threading.Thread(target=_answer_once, args=(listener, answer))
            thread.start()
            stack.callback(thread.join)
            return localapi.LocalApi(path, "the log", 0.3)

        yield start


def _answer_once(listener: socket.socket, answer: Answer) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        connection.recv(65536)
        for piece in answer:
            connection.sendall(piece)


def _status(**status: object) -> Answer:
    body = json.dumps(status).encode()
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)]


def _slowly() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    never = threading.Event()
    for _ in range(100_000):
        yield b" "
        never.wait(0.05)


def _chunks(length: int, pieces: int) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%d\r\n" % length
    for _ in range(pieces):
        yield b"x" * 2**20


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize("ask", [localapi.LocalApi.logout, localapi.LocalApi.await_address])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"SSH-2.0\r\n"], id="another protocol"),
        pytest.param([b"HTTP/1.1 403 Forbidden\r\n\r\n"], id="no"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le"], id="half of a head"),
        pytest.param([b"HTTP/1.1 2OO OK\r\n\r\n"], id="no number"),
        pytest.param(_slowly, id="a byte now and then"),
        pytest.param(lambda: _chunks(-1, 64), id="a chunk without an end"),
        pytest.param(lambda: _chunks(-5, 0), id="a chunk of a negative length"),
        pytest.param(lambda: _chunks(10**9, 64), id="more than it may"),
    ],
)
def test_whatever_a_node_answers_is_one_error_in_time(
    serve: Serve, answer: Answer | Callable[[], Answer], ask: Callable[[localapi.LocalApi], None]
) -> None:
    """Any invalid, slow or endless answer raises LocalApiFailed in time."""
    with pytest.raises(errors.LocalApiFailed):
        ask(serve(answer() if callable(answer) else answer))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([b'{"State":true}'], id="no number"),
        pytest.param([b'{"State":2}', b'{"State":3}'], id="no address yet"),
        pytest.param([b'{"State":5'], id="half a word"),
        pytest.param([b"[" * 100_000], id="deeper than one can look"),
        pytest.param([b"5", b'"State"', b"null"], id="no objects"),
    ],
)
def test_a_node_that_does_not_say_that_it_has_an_address_has_none(serve: Serve, words: list[bytes]) -> None:
    """If the notifications end without an address, the call raises LocalApiFailed."""
    with pytest.raises(errors.LocalApiFailed):
        serve([HEAD, b"\n".join(words)]).await_address()


@pytest.mark.parametrize("state", [5, 6])
def test_a_node_says_when_it_has_its_address(serve: Serve, state: int) -> None:
    """The call returns at the first state with an address, however the notifications are split into pieces."""
    bus = HEAD + b'{"State":0}\n{"Prefs":{}}\n{"State":%d}\n' % state
    serve(chain((bus[n : n + 1] for n in range(len(bus))), _slowly())).await_address()


def test_no_more_is_taken_in_than_an_answer_may_have(serve: Serve) -> None:
    """The client limits the size of an answer, because the answer ends only with the connection."""
    with pytest.raises(errors.LocalApiFailed, match=f"larger than {localapi.MAX_ANSWER} bytes"):
        serve(_chunks(-1, 64)).logout()


def test_only_what_a_node_can_have_is_an_address_of_it(serve: Serve) -> None:
    """A node has at most one IPv4 and one IPv6 address in the tailnet's ranges. Other claimed addresses are ignored."""
    many = [f"100.64.{n >> 8}.{n & 255}" for n in range(1000)]
    claimed = ["10.0.0.1", 7, "no address", *many, "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2"]
    node = serve(_status(BackendState="Running", TailscaleIPs=claimed)).node()
    assert [str(address) for address in node.addresses] == ["100.64.0.0", "fd7a:115c:a1e0::1"]
