"""One exchange with the kernel over netlink: messages there, messages back.

It knows their header, and nothing of what follows it. The kernel does what it is asked, and has answered, before ``sendto``
returns, and goes on with a long list whenever some of it is read: there is nothing to wait for, and no event loop.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = 16  # linux/netlink.h, from here on
REQUEST, ACK, EXCLUSIVE, DUMP, CREATE, APPEND = 0x1, 0x4, 0x200, 0x300, 0x400, 0x800
SO_SNDBUFFORCE = 32  # asm-generic/socket.h

_ERROR, _DONE, _DUMP_INTERRUPTED = 2, 3, 0x10
_RECEIVE_BUFFER = 1 << 17  # more than the kernel puts into one answer
_DUMP_TRIES = 5


def frame(kind: int, flags: int, body: bytes) -> bytes:
    """A message of that kind."""
    return struct.pack("=IHHII", HEADER + len(body), kind, flags | REQUEST, 0, 0) + body


def aligned(length: int) -> int:
    """Where the next message, or the next attribute, begins."""
    return length + 3 & ~3


def exchange(protocol: int, request: bytes) -> list[bytes]:
    """Send, and return the messages that the kernel answers, acknowledgements too.

    From within the calling thread's network namespace. What changed while it was listed is listed again. Raises the kernel's first
    refusal as the OSError that it is, EAGAIN for a list that does not stop changing.
    """
    for _ in range(_DUMP_TRIES):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
            netlink.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(request))
            netlink.sendto(request, (0, 0))
            answers = list(_answers(netlink))
        if not any(flags & _DUMP_INTERRUPTED for _, flags, _ in answers):
            return [message for kind, _, message in answers if kind != _DONE]
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _answers(netlink: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """The messages that wait on the socket: kind, flags, all of it. A refusal is raised."""
    while True:
        try:
            datagram = netlink.recv(_RECEIVE_BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(datagram):
            length, kind, flags = struct.unpack_from("=IHH", datagram, offset)
            message = datagram[offset : offset + length]
            if kind in (_ERROR, _DONE) and (code := struct.unpack_from("=i", message, HEADER)[0]):
                raise OSError(-code, os.strerror(-code))
            yield kind, flags, message
            if kind == _DONE:
                return
            offset += aligned(length)
