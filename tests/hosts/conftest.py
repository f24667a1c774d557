"""A new host for each test, and the tailnet that its pods join."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builds import need

from tests.kit.controlplane import ControlPlane
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.wire import Wire

from .machine import BootedHost, PlainHost, SystemdHost
from .podhost import PodHost

KINDS = {"systemd": SystemdHost, "plain": PlainHost}


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    """Install what the suite needs. Fail without root: a skip would hide that nothing was tested."""
    if os.geteuid() != 0:
        pytest.fail("tests/hosts needs root", pytrace=False)
    need(["hosts"])


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    """The network that connects hosts, control plane and peer."""
    with Wire() as wire:
        yield wire


@pytest.fixture(scope="session")
def control(wire: Wire, scratch: Path) -> Iterator[ControlPlane]:
    """The control plane."""
    with ControlPlane(wire, scratch / "hosts-control") as control:
        yield control


@pytest.fixture(scope="session")
def peer(wire: Wire, control: ControlPlane, scratch: Path) -> Iterator[Peer]:
    """A device on the tailnet."""
    with Netns("peer") as netns:
        wire.plug(netns)
        with Peer(control, netns, scratch / "hosts-peer", "laptop", userspace=True) as peer:
            yield peer


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> type[BootedHost]:
    """The class of the host. A test runs once with systemd and once without."""
    return KINDS[request.param]


@pytest.fixture
def boot(
    wire: Wire, control: ControlPlane, tmp_path: Path
) -> Iterator[Callable[[type[BootedHost]], PodHost]]:
    """A function that boots a host of a class, with a runtime and a primary network. The host ends with the test."""
    with ExitStack() as hosts:

        def boot(kind: type[BootedHost]) -> PodHost:
            return hosts.enter_context(
                PodHost(hosts.enter_context(kind(tmp_path / kind.__name__)), wire, control)
            )

        yield boot


@pytest.fixture
def bare(boot: Callable[[type[BootedHost]], PodHost], kind: type[BootedHost]) -> PodHost:
    """A host before ``install``, with or without systemd."""
    return boot(kind)


@pytest.fixture
def podhost(bare: PodHost) -> PodHost:
    """A host after ``install``, with or without systemd."""
    bare.install()
    return bare


@pytest.fixture
def systemd(boot: Callable[[type[BootedHost]], PodHost]) -> PodHost:
    """A host with systemd, after ``install``."""
    host = boot(SystemdHost)
    host.install()
    return host


@pytest.fixture
def plain(boot: Callable[[type[BootedHost]], PodHost]) -> PodHost:
    """A host without systemd, after ``install``."""
    host = boot(PlainHost)
    host.install()
    return host
