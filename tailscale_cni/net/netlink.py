"""Netlink sockets: send requests to the kernel and read its answers, with bounds. No other module opens a netlink socket.

Requests apply to the network namespace of the calling thread. This module knows the header of a message (linux/netlink.h,
struct nlmsghdr) and nothing of the body. ``rtnetlink`` and ``nftables`` know the bodies.

The kernel executes a request and queues the answer before ``send`` returns, and continues a dump whenever a part of it is read. So
reading never has to wait. pyroute2's own sockets run on asyncio (docs/adr/0009-netlink.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from itertools import islice
from typing import TYPE_CHECKING

from pyroute2.netlink import (
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGES = 16_384
"""The most messages that are read from one dump. One of our nodes has at most 10,000 routes (``model.MAX_PEERS``)."""

MAX_BYTES = 8 << 20
"""The most bytes that are read from one dump. 16,384 IPv6 routes are 2 MB; a single route with many next hops can be 64 kB."""

HEADER = struct.Struct("=IHHII")
"""linux/netlink.h, struct nlmsghdr: length in bytes with the header, type, flags, sequence number, port ID."""

SO_SNDBUFFORCE = 32  # asm-generic/socket.h
RECEIVE_BUFFER = 1 << 17  # bytes; the kernel puts at most 32 kB into one datagram
DUMP_TRIES = 5


def pack(kind: int, flags: int, body: bytes) -> bytes:
    """A request: a message of that type, with NLM_F_REQUEST and these flags."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def align(length: int) -> int:
    """Where the next message or attribute begins: NLMSG_ALIGN and NLA_ALIGN of linux/netlink.h."""
    return length + 3 & ~3


def request(protocol: int, messages: bytes) -> list[bytes]:
    """Send one message, or several in one datagram; return the kernel's answers, including acknowledgements.

    ``protocol`` is NETLINK_ROUTE or NETLINK_NETFILTER. Raises OSError with the number of the kernel's first refusal.
    """
    with _connected(protocol) as kernel:
        kernel.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(messages))
        kernel.send(messages)
        return [message for _, _, message in _answers(kernel)]


def dump(protocol: int, kind: int, body: bytes) -> list[bytes]:
    """List objects: return the messages that answer the request of that type and body.

    A pod with NET_ADMIN decides how long its lists are, so at most MAX_MESSAGES and MAX_BYTES are read. The kernel is asked to check the
    request strictly (since Linux 4.20), because otherwise it ignores the request's filters. If the list changes while it is read, it is
    read again. Raises OSError, with EAGAIN if the list changes each time.
    """
    message = pack(kind, NLM_F_DUMP, body)
    for _ in range(DUMP_TRIES):
        with _connected(protocol) as kernel:
            with contextlib.suppress(OSError):
                kernel.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            kernel.send(message)
            answers = list(islice(_answers(kernel), MAX_MESSAGES))
        if not any(flags & NLM_F_DUMP_INTR for _, flags, _ in answers):
            return [message for kind, _, message in answers if kind != NLMSG_DONE]
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@contextlib.contextmanager
def _connected(protocol: int) -> Iterator[socket.socket]:
    """Open a socket that receives messages only from the kernel.

    Without the connect, a process of the pod with NET_ADMIN could send us messages that look like the kernel's
    (linux: net/netlink/af_netlink.c, netlink_getsockbyportid).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        kernel.connect((0, 0))
        yield kernel


def _answers(kernel: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and the complete bytes of each queued message, up to the end of a dump. Raises OSError for a refusal."""
    received = 0
    while received < MAX_BYTES:
        try:
            datagram = kernel.recv(RECEIVE_BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        received += len(datagram)
        offset = 0
        while offset < len(datagram):
            length, kind, flags, _, _ = HEADER.unpack_from(datagram, offset)
            message = datagram[offset : offset + length]
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                (code,) = struct.unpack_from("=i", message, HEADER.size)
                if code:
                    raise OSError(-code, os.strerror(-code))
            yield kind, flags, message
            if kind == NLMSG_DONE:
                return
            offset += align(length)
