"""The tailnet that the tests of a process share, and a new host for each test."""

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
    """Add the logs of the hosts' nodes to the report of a test that failed."""
    report = yield
    if report.when == "call" and report.failed:
        report.sections += [("nodes", host.logs()) for host in item.stash.get(HOSTS, [])]
    return report


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    """Fail without root: network namespaces need it, and a skip would hide that nothing was tested."""
    if os.geteuid() != 0:
        pytest.fail("tests/netns needs root", pytrace=False)


@pytest.fixture(scope="session")
def world(scratch: Path) -> Iterator[World]:
    """A wire and a control plane: devcontrol, or a real Headscale if HEADSCALE names one."""
    plane = headscale.HeadscaleControlPlane if headscale.PROGRAM else ControlPlane
    with Wire() as wire, plane(wire, scratch / "control") as control:
        yield World(wire, control, scratch)


@pytest.fixture(scope="session")
def control(world: World) -> ControlPlane:
    """The control plane."""
    return world.control


@pytest.fixture(scope="session")
def peer(world: World) -> Iterator[Peer]:
    """A device with a kernel interface, such as a laptop."""
    with Netns("peer") as netns:
        world.wire.plug(netns)
        with Peer(world.control, netns, world.root / "peer", "laptop") as peer:
            yield peer


@pytest.fixture
def new_host(world: World, request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    """A function that makes hosts. Its arguments are keys of the plugin's entry in the network list."""
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
    """A new host."""
    return new_host()
