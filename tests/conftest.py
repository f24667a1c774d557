"""What every suite shares: a directory that other users can pass through."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Being terminated is being interrupted: fixtures take away what they made, also where a parent ignores SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory with a short name (unix sockets) that is listed by root alone and passed by all (workers have uids of their own)."""
    directory = Path(tempfile.mkdtemp(prefix="tscni-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)
