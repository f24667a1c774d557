"""Enrolment: a pod becomes a node, through a real libcni and a real primary plugin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit import tools, traffic
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.process import CLEAN, with_bind
from tests.kit.runtime import CNIError, Pod
from tests.kit.wait import wait_until

ODD_KEYS = {
    "mtu": 1400,
    "socketPath": "/x",
    "pciID": "0000:00:1f.6",
    "com.example/unknown": [1.0, {"a": None}],
}


def test_an_annotated_pod_is_reached_by_name_from_the_tailnet(host: Host, peer: Peer) -> None:
    """A peer opens a page of an enrolled pod by its MagicDNS name, and the pod sees the peer's tailnet address."""
    web = host.start(Pod.enrolled("web"))
    host.addresses(web)
    with traffic.web_server(web.netns, host.root / "web.log"):
        wait_until(lambda: peer.resolve("web"), what="the pod's name at the peer")
        assert peer.fetch("http://web/") == f"hello {peer.addresses[0]}"


def test_an_annotated_pod_is_reached_over_both_families(host: Host, peer: Peer) -> None:
    """An enrolled pod answers on the IPv4 and the IPv6 address that the control plane gave it."""
    web = host.start(Pod.enrolled("both"))
    v4, v6 = host.addresses(web)
    node = host.control.node("both")
    assert node
    assert node["addresses"] == [v4, v6]
    with traffic.web_server(web.netns, host.root / "web.log"):
        wait_until(lambda: peer.resolve("both"), what="the pod's name at the peer")
        assert peer.fetch(f"http://{v4}/") == f"hello {peer.addresses[0]}"
        assert peer.fetch(f"http://[{v6}]/") == f"hello {peer.addresses[1]}"


def test_an_enrolled_pod_reaches_the_tailnet(host: Host, peer: Peer) -> None:
    """A process in an enrolled pod, without any knowledge of Tailscale, opens a peer's page over IPv4 and IPv6."""
    pod = host.start(Pod.enrolled("client"))
    v4, v6 = host.addresses(pod)
    with traffic.web_server(peer.netns, host.root / "web.log"):
        wait_until(lambda: peer.resolve("client"), what="the pod's name at the peer")
        assert traffic.fetch(pod.netns, f"http://{peer.addresses[0]}/") == f"hello {v4}"
        assert traffic.fetch(pod.netns, f"http://[{peer.addresses[1]}]/") == f"hello {v6}"


def test_two_enrolled_pods_of_one_host_reach_each_other(host: Host) -> None:
    """Two enrolled pods on one host reach each other at their tailnet addresses."""
    a, b = host.start(Pod.enrolled("a")), host.start(Pod.enrolled("b"))
    (a4, _), (b4, _) = host.addresses(a), host.addresses(b)
    with traffic.web_server(b.netns, host.root / "web.log"):
        assert traffic.fetch(a.netns, f"http://{b4}/") == f"hello {a4}"


def test_the_kubernetes_address_stays_the_primarys(host: Host) -> None:
    """The result of ADD names only the primary CNI's addresses and interfaces, and eth0 has no other addresses."""
    web = host.sandbox(Pod.enrolled("web"))
    result = host.runtime.add(web)
    host.addresses(web)
    assert {link["name"] for link in result["interfaces"]} & {"ts0"} == set()
    given = {ip["address"].partition("/")[0] for ip in result["ips"]}
    assert len(given) == 2
    on_eth0 = {address for address in web.interface("eth0").addresses if not address.startswith("fe80")}
    assert on_eth0 == given


def test_the_kubernetes_network_still_works(host: Host) -> None:
    """An enrolled pod and its host still reach each other over the pod's Kubernetes addresses."""
    web = host.sandbox(Pod.enrolled("web"))
    result = host.runtime.add(web)
    host.addresses(web)
    with traffic.web_server(web.netns, host.root / "web.log"):
        for ip in result["ips"]:
            address = ip["address"].partition("/")[0]
            url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
            assert traffic.fetch(host.netns, url) == f"hello {ip['gateway']}"


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_spec_version_enrols(host: Host, version: str) -> None:
    """With every CNI version of the network list, pods become nodes, and DEL removes them."""
    host.runtime.cni_version = version
    web = host.sandbox(Pod.enrolled("versions"))
    assert host.runtime.add(web)["cniVersion"] == version
    host.addresses(web)
    if version >= "0.4.0":
        host.runtime.check(web)
    host.runtime.delete(web)
    assert host.leftovers() == []


def test_the_result_is_prev_result(host: Host) -> None:
    """ADD returns prevResult with all unknown keys, for enrolled pods and for others."""
    for pod in (Pod.enrolled("node"), Pod("plain")):
        sandbox = host.sandbox(pod)
        previous = host.runtime.add_primary(sandbox)
        previous["interfaces"][0] |= ODD_KEYS
        previous |= {"com.example/more": {"big": 2**70, "small": 1e-7, "text": "\u2028é"}}
        assert host.runtime.chained("ADD", sandbox, prevResult=previous) == previous


def test_a_pod_without_the_annotation_is_untouched(host: Host) -> None:
    """A pod that is not enrolled gets no interface, rule or firewall table of ours, and the host gets no process or file."""
    plain = host.sandbox(
        Pod("plain", annotations={"example.com/other": "x", "tailscale.com/enabled": "false"})
    )
    previous = host.runtime.add_primary(plain)
    before = (plain.netns.links(), plain.netns.rules(), plain.netns.ip("route", "show", "table", "all"))
    assert host.runtime.chained("ADD", plain, prevResult=previous) == previous
    host.runtime.chained("CHECK", plain, prevResult=previous)
    host.runtime.chained("DEL", plain, prevResult=previous)
    assert (
        plain.netns.links(),
        plain.netns.rules(),
        plain.netns.ip("route", "show", "table", "all"),
    ) == before
    assert plain.netns.run("nft", "list", "ruleset") == ""
    assert not host.state_dir.exists()
    assert host.processes() == []


def test_enroll_all_makes_nodes_of_pods_that_say_nothing(host: Host) -> None:
    """With ``enroll: all`` a pod becomes a node, unless its annotation declines or its namespace is excluded."""
    host.configure(enroll="all", excludeNamespaces=["kube-system"])
    host.addresses(host.start(Pod("all-in")))
    host.start(Pod("system", namespace="kube-system"))
    host.start(Pod("no", annotations={"tailscale.com/enabled": "false"}))
    assert len(host.nodes()) == 2


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        (Pod.enrolled("plex-deployment-7b5d9c6f8-xkz2w"), "plex"),
        (Pod.enrolled("postgres-0"), "postgres-0"),
        (Pod.enrolled("anything", hostname="chosen"), "chosen"),
    ],
)
def test_the_nodes_name(host: Host, control: ControlPlane, pod: Pod, name: str) -> None:
    """A node's hostname is its workload's name, or the hostname that its pod asks for."""
    addresses = host.addresses(host.start(pod))
    node = control.node(name)
    assert node
    assert node["addresses"] == addresses
    assert node["tags"] == ["tag:k8s-pod"]
    assert node["ephemeral"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tailscale.com/enabled", "yes"),
        ("tailscale.com/enabled", ""),
        ("tailscale.com/hostname", "Not_A_Label"),
        ("tailscale.com/hostname", "a" * 64),
        ("tailscale.com/hostname", "x\n\x1b[31my"),
        ("tailscale.com/required", "1"),
        ("tailscale.com/funnel", "443"),
        ("tailscale.com/ssh", "true"),
    ],
)
def test_a_refused_annotation_is_named(host: Host, name: str, value: str) -> None:
    """An annotation that is invalid or not supported fails ADD. The error has its name and escaped value, and nothing starts."""
    pod = Pod.enrolled("wish")
    sandbox = host.sandbox(Pod(pod.name, annotations={**pod.annotations, name: value}))
    previous = host.runtime.add_primary(sandbox)
    with pytest.raises(CNIError) as error:
        host.runtime.chained("ADD", sandbox, prevResult=previous)
    assert error.value.code in (101, 102)
    assert name in error.value.msg
    assert ascii(value) in error.value.msg
    assert error.value.msg.isprintable()
    assert host.processes() == []
    assert host.files() == []


def test_adding_twice_is_the_same_node(host: Host, control: ControlPlane) -> None:
    """A second ADD of an attachment changes nothing and uses no second key, so a single-use key is enough."""
    host.set_key(control.mint(reusable=False).key)
    web = host.sandbox(Pod.enrolled("twice"))
    previous = host.runtime.add_primary(web)
    host.runtime.chained("ADD", web, prevResult=previous)
    addresses, worker = host.addresses(web), host.worker(web)
    assert host.runtime.chained("ADD", web, prevResult=previous) == previous
    assert host.addresses(web) == addresses
    assert host.worker(web) == worker
    assert [node["addresses"] for node in control.nodes() if node["hostname"] == "twice"] == [addresses]


def test_a_container_id_with_another_pod_is_another_node(host: Host, control: ControlPlane) -> None:
    """ADD of a known container ID with another pod UID makes a new node and removes the old node."""
    old = host.sandbox(Pod.enrolled("old"))
    previous = host.runtime.add_primary(old)
    host.runtime.chained("ADD", old, prevResult=previous)
    host.addresses(old)
    new = host.adopt(old, Pod.enrolled("new"))
    host.runtime.chained("ADD", new, prevResult=previous)
    addresses = host.addresses(new)
    assert [node["addresses"] for node in control.nodes() if node["name"] == "new"] == [addresses]
    assert control.node("old") is None
    wait_until(lambda: len(host.nodes()) == 2, what="the end of the old node's processes")


def test_cnitool_enrols_a_pod(host: Host) -> None:
    """ADD, CHECK and DEL work through cnitool, the CNI project's own tool."""
    web = host.sandbox(Pod.enrolled("cnitool"))
    conflist = host.runtime.conflist()
    environ = CLEAN | {
        "CNI_PATH": f"{host.runtime.bin}:{tools.reference_plugins()}",
        "NETCONFPATH": str(conflist.parent),
        "CAP_ARGS": json.dumps(web.capability_args),
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in web.cni_args),
    }

    (host.root / "var-lib").mkdir()
    private = with_bind(host.root / "var-lib", Path("/var/lib"))  # cnitool keeps libcni's cache there

    def cnitool(verb: str) -> None:
        done = host.netns.attempt(
            *private, tools.clients() / "cnitool", verb, "pods", str(web.netns.path), env=environ
        )
        assert done.returncode == 0, done.stderr + done.stdout

    cnitool("add")
    wait_until(lambda: web.interface("ts0").addresses, what="an address on ts0")
    cnitool("check")
    cnitool("del")
    assert "ts0" not in web.netns.links()
    assert host.leftovers() == []


def test_a_pod_has_one_tailnet_interface(host: Host) -> None:
    """ADD of a second interface of an enrolled pod is refused. Neither that ADD nor its DEL disturbs the pod's node."""
    pod = host.start(Pod.enrolled("twice"))
    addresses = host.addresses(pod)
    second = replace(pod, ifname="eth1")
    with pytest.raises(CNIError, match="is already a node, with the interface eth0") as caught:
        host.runtime.add(second)
    assert caught.value.code == 117
    host.runtime.delete(second)
    assert host.addresses(pod) == addresses
    host.runtime.check(pod)
