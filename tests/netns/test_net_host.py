"""The host's side of the network, tested in a namespace that plays the host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tailscale_cni import linux
from tailscale_cni.net import host
from tests.kit.netns import Netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_UID, LAST_UID = 2_000_000_000, 2_000_065_535

UIDS = f"uidrange {FIRST_UID}-{LAST_UID}"

# What tailscaled sets up for an exit node (tailscale: wgengine/router/osrouter), with a veth in place of its tunnel.
TAILSCALED = """
ip link add eth0 type veth peer name wire
ip link set eth0 up
ip link set wire up
ip link add tailscale0 type veth peer name tunnel
ip link set tailscale0 up
ip link set tunnel up
for family in -4 -6; do
    ip $family rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
    ip $family rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
    ip $family rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
    ip $family rule add pref 5270 lookup 52
    ip $family route add default dev eth0
    ip $family route add default dev tailscale0 table 52
done
"""


class Host:
    """A namespace that plays the host."""

    def __init__(self, netns: Netns) -> None:
        self.netns = netns

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the product in the namespace."""
        with linux.in_netns(str(self.netns.path)):
            return function(*arguments)

    def rules(self) -> list[str]:
        """The namespace's rules without the kernel's own."""
        own = ("0:", "32766:", "32767:")
        return [rule.replace("\t", " ") for rule in self.netns.rules() if not rule.startswith(own)]

    def way(self, address: str, uid: int) -> str:
        """The interface through which a socket of the uid ``uid`` reaches an address."""
        (route,) = self.netns.ip("route", "get", address, "uid", str(uid))
        return str(route["dev"])


@pytest.fixture
def machine() -> Iterator[Host]:
    """A host with an empty namespace."""
    with Netns("host") as netns:
        yield Host(netns)


def test_the_uid_rule_comes_and_goes(machine: Host) -> None:
    """Repeated calls make one uid rule per IP version. The first removal removes them, and a second one is no error."""
    for _ in range(2):
        machine.call(host.ensure_uid_rule, FIRST_UID, LAST_UID)
        assert machine.rules() == [f"5200: from all {UIDS} lookup main proto 52"] * 2
    for _ in range(2):
        machine.call(host.remove_uid_rule, FIRST_UID, LAST_UID)
        assert machine.rules() == []


def test_many_calls_at_once_make_one_rule(machine: Host) -> None:
    """Parallel calls make one uid rule per IP version, and none of them fails."""
    with ThreadPoolExecutor(8) as callers:
        for call in [
            callers.submit(machine.call, host.ensure_uid_rule, FIRST_UID, LAST_UID) for _ in range(8)
        ]:
            call.result()
    assert machine.rules() == [f"5200: from all {UIDS} lookup main proto 52"] * 2


@pytest.mark.parametrize("address", ["192.0.2.1", "100.64.0.9", "2001:db8::1", "fd7a:115c:a1e0::9"])
def test_workers_do_not_tunnel_in_the_hosts_tunnel(machine: Host, address: str) -> None:
    """If the host's tailscaled uses an exit node, only the workers' sockets still use the host's own interface."""
    machine.netns.run("sh", "-ec", TAILSCALED)
    assert machine.way(address, FIRST_UID) == "tailscale0"
    machine.call(host.ensure_uid_rule, FIRST_UID, LAST_UID)
    assert machine.way(address, FIRST_UID) == "eth0"
    assert machine.way(address, LAST_UID) == "eth0"
    assert machine.way(address, LAST_UID + 1) == "tailscale0"
    machine.call(host.remove_uid_rule, FIRST_UID, LAST_UID)
    assert machine.way(address, FIRST_UID) == "tailscale0"


def test_removing_the_uid_rule_leaves_others(machine: Host) -> None:
    """Removing the uid rule leaves other rules, including those with the same priority and those of other uids."""
    machine.netns.run(*f"ip rule add pref 5200 {UIDS} lookup 99".split())
    machine.netns.run(*["ip", "rule", "add", "pref", "5200", "uidrange", "1000-1000", "lookup", "main"])
    before = machine.rules()
    machine.call(host.ensure_uid_rule, FIRST_UID, LAST_UID)
    assert len(machine.rules()) == len(before) + 2
    machine.call(host.remove_uid_rule, FIRST_UID, LAST_UID)
    assert machine.rules() == before


def test_the_hosts_tailnet_addresses(machine: Host) -> None:
    """The host's tailnet addresses are its addresses in the tailnet's ranges, on every interface, sorted."""
    assert machine.call(host.host_tailnet_addresses) == ()
    machine.netns.run(*["ip", "link", "add", "tailscale0", "type", "veth", "peer", "name", "eth0"])
    for address in (
        "100.77.0.2/32",
        "10.0.0.1/24",
        "100.63.255.255/32",
        "100.128.0.0/32",
        "fd7a:115c:a1e0::2/128",
    ):
        machine.netns.run("ip", "addr", "add", address, "dev", "tailscale0")
    for address in ("100.64.0.1/16", "fd7a:115c:a1e1::1/64", "192.0.2.1/24"):
        machine.netns.run("ip", "addr", "add", address, "dev", "eth0")
    found = machine.call(host.host_tailnet_addresses)
    assert list(map(str, found)) == ["100.64.0.1", "100.77.0.2", "fd7a:115c:a1e0::2"]


def test_a_host_without_ipv6(machine: Host) -> None:
    """A host with IPv6 switched off still gets its IPv4 rule."""
    machine.netns.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    machine.call(host.ensure_uid_rule, FIRST_UID, LAST_UID)
    assert f"5200: from all {UIDS} lookup main proto 52" in machine.rules()
    assert machine.call(host.host_tailnet_addresses) == ()
    machine.call(host.remove_uid_rule, FIRST_UID, LAST_UID)
    assert machine.rules() == []
