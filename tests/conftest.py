"""What all suites share: how a run is spread over processes and interrupted, and a directory that other users can pass through."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.cluster.cluster import RUNTIMES

CLEANUP_SECONDS = 120
"""How long an interrupted run waits until its processes have removed what their tests made."""

PROCESSES = pytest.StashKey[list[WorkerController]]()
"""The processes that run tests, where there are several (pytest-xdist calls them workers)."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands tests out one by one, in the order of `pytest_collection_modifyitems`.

    Tests that share a cluster stay together: it takes a minute of CPU to boot one.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Name the group of a test: the runtime of its cluster, its file if that has a cluster of its own, else itself."""
        path, _, test = nodeid.partition("::")
        if not path.startswith("tests/cluster/"):
            return nodeid
        return next((name for name in RUNTIMES if name in test.partition("[")[2]), path)


def pytest_configure(config: pytest.Config) -> None:
    """Make SIGTERM interrupt the run as SIGINT does, so that fixtures remove what they made; also if the parent ignores SIGINT."""
    config.stash[PROCESSES] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, _interrupt_once if hasattr(config, "workerinput") else signal.default_int_handler
        )


def _interrupt_once(*_: int | FrameType | None) -> None:
    """Raise KeyboardInterrupt, and let nothing interrupt the fixtures that follow.

    A process of a run gets the signal from the terminal, from the run's first process and from xdist.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first: clusters, then tests that are marked as long. At the end, no process is to wait for another one."""
    items.sort(
        key=lambda item: (not item.nodeid.startswith("tests/cluster/"), not item.get_closest_marker("long"))
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Say how tests are handed out, whatever `--dist` says."""
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: WorkerController) -> None:
    """Remember a process that is ready."""
    node.config.stash[PROCESSES].append(node)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Interrupt the processes of a run that was interrupted, and wait for them: xdist kills them after ten seconds."""
    if exitstatus not in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
        return
    running = [node for node in session.config.stash[PROCESSES] if not node.channel.isclosed()]
    for node in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.gateway._rinfo().pid, signal.SIGTERM)
    for node in running:
        with contextlib.suppress(EOFError, node.channel.TimeoutError, node.channel.RemoteError):
            node.channel.waitclose(CLEANUP_SECONDS)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory with a short name (unix sockets) that only root can list and all can pass through (workers have uids of their own)."""
    directory = Path(tempfile.mkdtemp(prefix="tscni-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)
