"""The clusters of the suite, one for each container runtime, and the tailnet that their pods join."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.wire import Wire

from .cluster import RUNTIMES, Cluster
from .enrolment import install, logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of plugin, kubelet and containerd to the report of a test that failed."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(cluster, Cluster):
        report.sections += logs(cluster)
    if report.when == "call" and report.failed:
        places = getattr(item, "funcargs", {}).get("places", ())
        report.sections += [(f"host {place.node}", place.warnings() + place.host.logs()) for place in places]
        hosts = getattr(item, "funcargs", {}).get("hosts")
        report.sections += [("hosts", hosts.warnings())] if hosts else []
    return report


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    """Fail without root: a cluster needs it, and a skip would hide that nothing was tested."""
    if os.geteuid() != 0:
        pytest.fail("tests/cluster needs root", pytrace=False)


@pytest.fixture(scope="session")
def directory(scratch: Path) -> Path:
    """The directory for all files that the suite writes."""
    directory = scratch / "cluster"
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    """The network between hosts, control plane and peer."""
    with Wire() as wire:
        yield wire


@pytest.fixture(scope="session")
def control(wire: Wire, directory: Path) -> Iterator[ControlPlane]:
    """The control plane."""
    with ControlPlane(wire, directory / "control") as control:
        yield control


@pytest.fixture(scope="session")
def peer(control: ControlPlane, wire: Wire, directory: Path) -> Iterator[Peer]:
    """A laptop in the tailnet."""
    with Netns("laptop") as netns:
        wire.plug(netns)
        with Peer(control, netns, directory / "laptop", "laptop") as peer:
            yield peer


@pytest.fixture(scope="package", params=sorted(RUNTIMES))
def cluster(
    request: pytest.FixtureRequest, wire: Wire, control: ControlPlane, directory: Path
) -> Iterator[Cluster]:
    """A cluster with the plugin installed by the documented command. It ends after the last test that uses it."""
    with Cluster(RUNTIMES[request.param](), directory / request.param, wire) as cluster:
        install(cluster, control)
        yield cluster
