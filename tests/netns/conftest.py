"""The tailnet that the suite shares, and a fresh host for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit import headscale
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.wire import Wire
from tests.kit.world import World

HOSTS = pytest.StashKey[list[Host]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the nodes of its hosts have logged."""
    report = yield
    if report.when == "call" and report.failed:
        report.sections += [("nodes", host.logs()) for host in item.stash.get(HOSTS, [])]
    return report


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    """Namespaces want root: without it nothing here can be tested, and that is an error, not a skip."""
    if os.geteuid() != 0:
        pytest.fail("tests/netns needs root", pytrace=False)


@pytest.fixture(scope="session")
def world(scratch: Path) -> Iterator[World]:
    """The tailnet of the whole suite: devcontrol's, or that of a real Headscale if one is named."""
    plane = headscale.HeadscaleControlPlane if headscale.PROGRAM else ControlPlane
    with Wire() as wire, plane(wire, scratch / "control") as control:
        yield World(wire, control, scratch)


@pytest.fixture(scope="session")
def control(world: World) -> ControlPlane:
    """Its control plane."""
    return world.control


@pytest.fixture(scope="session")
def peer(world: World) -> Iterator[Peer]:
    """Somebody with a kernel interface, as a laptop is."""
    with Netns("peer") as netns:
        world.wire.plug(netns)
        with Peer(world.control, netns, world.root / "peer", "laptop") as peer:
            yield peer


@pytest.fixture
def new_host(world: World, request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    """Makes hosts, with keys of our plugin's conflist entry as arguments."""
    made = request.node.stash.setdefault(HOSTS, [])
    with ExitStack() as stack:

        def new(**config: Any) -> Host:
            root = world.root / f"host{os.urandom(4).hex()}"
            host = stack.enter_context(Host(world.wire, world.control, root, **config))
            made.append(host)
            return host

        yield new


@pytest.fixture
def host(new_host: Callable[..., Host]) -> Host:
    """A fresh host."""
    return new_host()
