"""The entry point: a CNI call if CNI_COMMAND is set, else the command line.

The bootstrap (packaging/front/) passes what the fast path has read of standard input. `python -m tailscale_cni` in a checkout has read
nothing.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


class _Resumed(io.RawIOBase):
    """Standard input from its beginning, of which a part has been read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._rest.isatty()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._head[: len(buffer)] or self._rest.read(len(buffer))
        buffer[: len(part)] = part
        self._head = self._head[len(part) :]
        return len(part)


def choose() -> Callable[[bytes], int]:
    """Import what this process is for. The result takes what has been read of standard input and returns the exit status."""
    if "CNI_COMMAND" in os.environ:
        from tailscale_cni import verbs
        from tailscale_cni.cni import dispatch

        def answer(read: bytes) -> int:
            stdin = io.BufferedReader(_Resumed(read, sys.stdin.buffer)) if sys.stdin else None
            stdout = sys.stdout.buffer if sys.stdout else None
            return dispatch.main(os.environ, stdin, stdout, sys.stderr, verbs.load, verbs.log)

        return answer
    from tailscale_cni import cli

    return lambda _: cli.main(sys.argv[1:])


def main() -> int:
    """Answer the call or run the command, and return the exit status."""
    return choose()(b"")


if __name__ == "__main__":
    sys.exit(main())
