"""The netlink code: with the artefact's reduced pyroute2 and with the published one, closed to other senders, and bounded."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builds.artefact import dependencies

from tailscale_cni import linux
from tailscale_cni.net import model, netlink, pod
from tests.kit.interpreters import SUPPORTED, interpreters
from tests.kit.netns import Netns

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OWNER = 2_000_000_001
NETWORK = model.PodNetwork((ip_address("10.99.0.2"),), cluster_cidrs=(ip_network("10.99.0.0/16"),))
TAILNET = model.Tailnet((ip_address("100.64.0.7"), ip_address("fd7a:115c:a1e0::7")))
ACCEPTED = TAILNET._replace(routes=(ip_network("0.0.0.0/0"),))
MANY = 50_000
SMALL = 100_000
"""Bytes, more than all answers except long lists. The kernel puts up to 32 kB into one answer."""

LIFE = """
import sys
sys.path[:0] = sys.argv[1:]
from ipaddress import ip_address, ip_network
from tailscale_cni import linux
from tailscale_cni.net import host, model, pod
tun = linux.open_tun("ts0", 2000000001, 1280)
network = model.PodNetwork(
    (ip_address("10.99.0.2"), ip_address("fd99::2")),
    host_sources=(ip_network("100.77.0.1/32"),),
    cluster_cidrs=(ip_network("10.99.0.0/16"), ip_network("fd99::/48")),
    worker_uid_range=(2000000000, 2000000001),
)
tailnet = model.Tailnet(
    (ip_address("100.64.0.7"), ip_address("fd7a:115c:a1e0::7")),
    routes=(ip_network("0.0.0.0/0"), ip_network("2001:db8::/32")),
)
pod.prepare(network)
changed = [pod.apply(network, tailnet), pod.apply(network, tailnet)]
findings = pod.verify(network, tailnet)
found = host.host_tailnet_addresses()
pod.apply(network, model.Tailnet(tailnet.addresses[:1]))
pod.remove(network)
print(*changed, findings, *found, "pyroute2.iproute" in sys.modules)
"""


class CountingSocket(socket.socket):
    """A socket that counts the bytes that it receives."""

    received = 0

    def recv(self, *arguments: Any) -> bytes:
        """Receive data and count its bytes."""
        data = super().recv(*arguments)
        CountingSocket.received += len(data)
        return data


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A pod's namespace with a node's TUN."""
    with Netns("netlink") as netns:
        with linux.in_netns(str(netns.path)):
            tun = linux.open_tun("ts0", OWNER, 1280)
        yield netns
        os.close(tun)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> type[CountingSocket]:
    """The class whose ``received`` counts the bytes that the netlink code reads from now on."""
    monkeypatch.setattr("tailscale_cni.net.netlink.socket.socket", CountingSocket)
    monkeypatch.setattr(CountingSocket, "received", 0)
    return CountingSocket


def flood(netns: Netns) -> None:
    """Add ``MANY`` routes to the tailnet's table, as a pod with NET_ADMIN can."""
    netns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
    netns.run("ip", "link", "set", "eth0", "up")
    routes = (f"route add {ip_address('10.0.0.0') + n} dev eth0 table 52" for n in range(MANY))
    netns.run("ip", "-batch", "-", stdin="\n".join(routes))


def listed(netns: Netns, table: str = "52") -> int:
    """The number of IPv4 routes in a table."""
    return len(netns.run("ip", "-4", "route", "show", "table", table).splitlines())


@pytest.mark.parametrize(
    "python", [path for version, path in interpreters().items() if version >= SUPPORTED], ids=lambda p: p.name
)
def test_the_emptied_package_does_all_that_is_asked_of_it(python: Path) -> None:
    """With the artefact's reduced pyroute2, a pod's network is configured and removed without importing the library."""
    with Netns("emptied") as netns:
        said = netns.run(python, "-IS", "-c", LIFE, dependencies(), ROOT)
    assert said == "True False [] 100.64.0.7 fd7a:115c:a1e0::7 False\n"


def test_the_whole_package_does_the_same() -> None:
    """With the published pyroute2, as in a source checkout, the same code has the same result and imports the library."""
    with Netns("whole") as netns:
        said = netns.run(sys.executable, "-IS", "-c", LIFE, sysconfig.get_path("purelib"), ROOT)
    assert said == "True False [] 100.64.0.7 fd7a:115c:a1e0::7 True\n"


def test_only_the_kernel_can_answer(netns: Netns) -> None:
    """Another process in the namespace cannot send to a socket that is connected to the kernel, only to an unconnected one."""
    with linux.in_netns(str(netns.path)), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as other:
        forged = netlink.pack(3, 0, bytes(4))  # NLMSG_DONE
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as open_to_all:
            open_to_all.bind((0, 0))
            other.sendto(forged, (open_to_all.getsockname()[0], 0))
            assert open_to_all.recv(100) == forged
        with netlink._connected(0) as kernel, pytest.raises(ConnectionRefusedError):
            other.sendto(forged, (kernel.getsockname()[0], 0))


def test_removal_reads_no_list(netns: Netns, received: type[CountingSocket]) -> None:
    """DEL reads only acknowledgements, however many routes the pod added to the tailnet's table."""
    with linux.in_netns(str(netns.path)):
        pod.prepare(NETWORK)
        pod.apply(NETWORK, TAILNET)
    flood(netns)
    before, received.received = listed(netns), 0
    with linux.in_netns(str(netns.path)):
        pod.remove(NETWORK)
    assert 0 < received.received < SMALL
    assert before == MANY + 1
    assert "ts0" not in netns.links()


@pytest.mark.parametrize("function", [pod.apply, pod.verify])
def test_lists_are_bounded(netns: Netns, received: type[CountingSocket], function: Any) -> None:
    """If the pod floods the tailnet's table, a sync and a CHECK read ``MAX_MESSAGES`` routes and no more."""
    with linux.in_netns(str(netns.path)):
        pod.prepare(NETWORK)
        pod.apply(NETWORK, TAILNET)
    flood(netns)
    received.received = 0
    with linux.in_netns(str(netns.path)):
        function(NETWORK, TAILNET)
    route = 16 + 12 + 8 + 8 + 8  # bytes: nlmsghdr, rtmsg, RTA_TABLE, RTA_DST, RTA_OIF
    removed = MANY + 1 - listed(netns)
    answers = netlink.MAX_MESSAGES * route + removed * 36  # plus an acknowledgement for each removed route
    assert answers < received.received < answers + SMALL
    assert removed == (netlink.MAX_MESSAGES if function is pod.apply else 0)
    assert "dev ts0" in netns.run("ip", "route", "get", "100.64.0.9")


def test_only_the_tailnets_table_is_read(netns: Netns, received: type[CountingSocket]) -> None:
    """A sync and a CHECK do not read the pod's other tables, which can be large, for example with BGP."""
    flood(netns)
    netns.run("ip", "route", "flush", "table", "52")
    routes = (f"route add {ip_address('10.0.0.0') + n} dev eth0" for n in range(MANY))
    netns.run("ip", "-batch", "-", stdin="\n".join(routes))
    received.received = 0
    with linux.in_netns(str(netns.path)):
        pod.prepare(NETWORK)
        pod.apply(NETWORK, TAILNET)
        assert pod.verify(NETWORK, TAILNET) == []
    assert listed(netns, "main") == MANY
    assert 0 < received.received < SMALL


def test_removal_takes_the_routes_that_have_no_interface(netns: Netns) -> None:
    """Removal deletes the routes that except the cluster from an exit node, and leaves a route that the pod added."""
    with linux.in_netns(str(netns.path)):
        pod.prepare(NETWORK)
        pod.apply(NETWORK, ACCEPTED)
    netns.run("ip", "route", "add", "192.0.2.0/24", "dev", "lo", "table", "52")
    assert "throw 10.99.0.0/16" in netns.run("ip", "route", "show", "table", "52")
    with linux.in_netns(str(netns.path)):
        pod.remove(NETWORK)
    assert netns.run("ip", "route", "show", "table", "52").strip() == "192.0.2.0/24 dev lo scope link"
