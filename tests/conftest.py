"""What every suite shares: a directory that other users can pass through."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory with a short name (unix sockets) that is listed by root alone and passed by all (workers have uids of their own)."""
    directory = Path(tempfile.mkdtemp(prefix="tscni-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)
