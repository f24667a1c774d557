"""Rules, routes and filters as computed from values, without the kernel."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tailscale_cni.net import firewall, model

if TYPE_CHECKING:
    from tailscale_cni.tailnet import Address

BOTH = (4, 6)
NODE = (ip_address("100.64.0.7"), ip_address("fd7a:115c:a1e0::7"))
POD = (ip_address("10.1.0.2"), ip_address("fd00::2"))


def routes(pod: model.PodNetwork, tailnet: model.Tailnet, families: tuple[int, ...] = BOTH) -> list[str]:
    """The routes as strings."""
    return list(map(str, model.routes(pod, tailnet, families)))


def tailnet(addresses: tuple[Address, ...] = NODE, peers: tuple[Address, ...] = ()) -> model.Tailnet:
    """A tailnet without accepted routes."""
    return model.Tailnet(addresses, peers)


@pytest.mark.parametrize(
    "foreign", ["10.0.0.1", "100.128.0.1", "100.63.255.255", "fd7a:115c:a1e1::1", "::1", "0.0.0.0"]
)
@pytest.mark.parametrize("field", ["addresses", "peers"])
def test_no_address_but_a_tailnets(foreign: str, field: str) -> None:
    """An address outside the tailnet's ranges is refused, and the error names the address."""
    with pytest.raises(ValueError, match=f"not an address of a tailnet: {foreign}$"):
        tailnet(**{field: (NODE[0], ip_address(foreign))})


def test_a_node_of_one_version_has_routes_of_one() -> None:
    """Routes exist only for IP versions in which the node has an address and which the namespace supports."""
    pod = model.PodNetwork(pod_addresses=POD)
    assert routes(pod, model.Tailnet(NODE)) == ["100.64.0.0/10", "fd7a:115c:a1e0::/48"]
    assert routes(pod, model.Tailnet(NODE[:1])) == ["100.64.0.0/10"]
    assert routes(pod, model.Tailnet(NODE[1:])) == ["fd7a:115c:a1e0::/48"]
    assert routes(pod, model.Tailnet(NODE), families=(4,)) == ["100.64.0.0/10"]
    assert routes(pod, model.Tailnet(())) == []


def test_peers_matter_only_where_the_cluster_overlaps() -> None:
    """Peers get their own routes only in a range that the cluster overlaps. IPv4 and IPv6 are decided separately."""
    both = model.Tailnet(NODE, peers=(ip_address("100.65.0.1"), ip_address("fd7a:115c:a1e0::8")))
    assert routes(model.PodNetwork(POD), both) == ["100.64.0.0/10", "fd7a:115c:a1e0::/48"]
    pod = model.PodNetwork(POD, cluster_cidrs=(ip_network("100.96.0.0/11"),))
    assert routes(pod, both) == ["100.100.100.100/32", "100.65.0.1/32", "fd7a:115c:a1e0::/48"]
    pod = model.PodNetwork(POD, cluster_cidrs=(ip_network("fd7a:115c:a1e0:1::/64"),))
    assert routes(pod, both) == ["100.64.0.0/10", "fd7a:115c:a1e0::53/128", "fd7a:115c:a1e0::8/128"]


def test_a_pod_in_the_range_is_an_overlap_of_its_own() -> None:
    """A pod address in the tailnet's range counts as an overlap, so the pod still reaches its cluster if the CIDRs are unknown."""
    own = ip_address("100.96.0.2")
    pod = model.PodNetwork((own,))
    assert routes(pod, model.Tailnet(NODE[:1], peers=(own, ip_address("100.65.0.1")))) == [
        "100.100.100.100/32",
        "100.65.0.1/32",
    ]


def test_routes_into_the_cluster_are_never_taken() -> None:
    """An accepted route within or equal to a cluster CIDR is left out. A wider route gets an exception for the CIDR."""
    pod = model.PodNetwork(POD, cluster_cidrs=(ip_network("10.1.0.0/16"), ip_network("fd00::/64")))
    accepted = ("10.1.0.0/16", "10.1.2.0/24", "fd00::/80", "0.0.0.0/0", "fd00::/32")
    wide = model.Tailnet(NODE, routes=tuple(map(ip_network, accepted)))
    assert routes(pod, wide) == [
        "0.0.0.0/0",
        "100.64.0.0/10",
        "throw 10.1.0.0/16",
        "fd00::/32",
        "fd7a:115c:a1e0::/48",
        "throw fd00::/64",
    ]


def test_the_worker_comes_before_all_others() -> None:
    """The rules are in the kernel's order of evaluation, with the worker's rule first, and come before those of tailscaled."""
    rules = model.rules(model.PodNetwork(POD, worker_uid_range=(5, 6)), BOTH)
    assert list(map(str, rules)) == [
        "IPv4 5160: from all uidrange 5-6 lookup main",
        "IPv4 5170: from 10.1.0.2 lookup main",
        "IPv4 5180: from all lookup 52",
        "IPv6 5160: from all uidrange 5-6 lookup main",
        "IPv6 5170: from fd00::2 lookup main",
        "IPv6 5180: from all lookup 52",
    ]
    assert max(rule.priority for rule in rules) < model.HOST_PRIORITY < 5210


def test_purposes_tell_filters_apart() -> None:
    """Each filter has a unique purpose that fits into an nft comment, because the purpose identifies the rule later."""
    hosts = (model.host_network(NODE[0] + n) for n in range(300))
    sources = (*hosts, ip_network("fd7a:115c:a1e0:ab12::/64"))
    filters = firewall.filters(model.PodNetwork(POD, host_sources=sources), NODE)
    purposes = [filter_.purpose for filter_ in filters]
    assert len(set(purposes)) == len(purposes)
    assert max(map(len, purposes)) < 128


@pytest.mark.parametrize(
    "module",
    ["net", "net.model", "node.netns", "node.start", "node.configure", "node.teardown", "verbs.check"],
)
def test_pyroute2_is_imported_by_those_who_use_it(module: str) -> None:
    """Importing the values, or the modules that call ``pod`` and ``host``, does not import pyroute2."""
    program = f"import sys, tailscale_cni.{module}; print('pyroute2' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_a_control_plane_cannot_make_routes_without_end() -> None:
    """At most ``MAX_PEERS`` peers, more than real tailnets have, get a route: the same peers, whatever their order."""
    many = tuple(NODE[0] + n for n in range(1, model.MAX_PEERS + 1000))
    pod = model.PodNetwork(POD, cluster_cidrs=(ip_network("100.96.0.0/11"),))
    found = model.routes(pod, model.Tailnet(NODE[:1], many), BOTH)
    assert len(found) == model.MAX_PEERS + 1  # plus the route to the node's own services
    assert found == model.routes(pod, model.Tailnet(NODE[:1], many[::-1]), BOTH)
    assert str(many[0]) + "/32" in map(str, found)
