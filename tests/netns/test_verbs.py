"""CHECK, GC, STATUS and VERSION, through libcni."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until

TABLE = ("table", "52")


def _findings(host: Host, sandbox: Sandbox) -> str:
    """What CHECK finds wrong with a pod. Asserts that CHECK fails with code 109."""
    with pytest.raises(CNIError) as error:
        host.runtime.check(sandbox)
    assert error.value.code == 109
    return error.value.msg


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("ip link set ts0 down", "ts0"),
        ("ip address delete {v4}/32 dev ts0", "{v4}"),
        ("ip address delete {v6}/128 dev ts0", "{v6}"),
        ("ip route delete 100.64.0.0/10 table 52", "100.64.0.0/10"),
        ("ip -6 route delete fd7a:115c:a1e0::/48 table 52", "fd7a:115c:a1e0::/48"),
        ("ip rule delete lookup 52", "rule"),
        ("ip -6 rule delete lookup 52", "rule"),
        ("nft flush ruleset", "firewall"),
    ],
)
def test_check_names_what_is_broken(host: Host, broken: str, named: str) -> None:
    """CHECK passes after ADD, and names what was broken since, unless the supervisor has already repaired it."""
    web = host.start(Pod.enrolled("check"))
    v4, v6 = host.addresses(web)
    host.runtime.check(web)
    os.kill(host.supervisor(web).pid, signal.SIGSTOP)
    wait_until(lambda: host.processes() == host.nodes(), what="the end of what the supervisor has started")
    web.netns.run(*broken.format(v4=v4, v6=v6).split())
    assert named.format(v4=v4, v6=v6) in _findings(host, web)


def test_check_names_a_firewall_that_accepts_and_add_mends_it(host: Host) -> None:
    """CHECK names firewall rules that were changed from drop to accept, and a second ADD of the pod repairs them."""
    sandbox = host.sandbox(Pod.enrolled("firewall"))
    previous = host.runtime.add_primary(sandbox)
    host.runtime.chained("ADD", sandbox, prevResult=previous)
    listed = sandbox.netns.run("nft", "list", "ruleset")
    sandbox.netns.run("nft", "-f", "-", stdin="flush ruleset\n" + listed.replace(" drop ", " accept "))
    assert "from the tailnet to others' was changed" in _findings(host, sandbox)
    host.runtime.chained("ADD", sandbox, prevResult=previous)
    host.runtime.check(sandbox)
    assert sandbox.netns.run("nft", "list", "ruleset") == listed


def test_check_names_another_interface_in_the_nodes_place(host: Host) -> None:
    """CHECK names an interface that is called ts0 but is not the node's TUN."""
    web = host.start(Pod.enrolled("bridge"))
    host.addresses(web)
    for command in ("set ts0 down", "set ts0 name mine", "add ts0 type bridge", "set ts0 up"):
        web.netns.run("ip", "link", *command.split())
    assert "ts0 is not the node's TUN interface" in _findings(host, web)


def test_check_does_not_mind_what_others_added(host: Host) -> None:
    """CHECK ignores interfaces, addresses, rules and tables that later plugins or the pod itself added."""
    web = host.start(Pod.enrolled("others"))
    host.addresses(web)
    for command in (
        "ip link add other type bridge",
        "ip link set other up",
        "ip address add 203.0.113.1/24 dev other",
        "ip rule add from 203.0.113.1 lookup 99",
        "ip route add 203.0.113.128/25 dev other table 99",
        "nft add table inet other",
    ):
        web.netns.run(*command.split())
    host.runtime.check(web)


def test_check_names_a_node_that_does_not_run(host: Host) -> None:
    """CHECK fails if the node's supervisor does not run."""
    web = host.start(Pod.enrolled("dead"))
    host.addresses(web)
    host.supervisor(web).kill()
    wait_until(lambda: not host.processes(), what="the worker's end")
    assert "supervisor" in _findings(host, web)


def test_check_passes_while_the_address_is_pending(host: Host, control: ControlPlane) -> None:
    """CHECK passes if the node has never been Running yet, because CRI-O calls CHECK right after ADD."""
    host.configure(readyTimeout="0s")
    with control.outage():
        web = host.start(Pod.enrolled("pending"))
        host.runtime.check(web)
    host.addresses(web)
    host.runtime.check(web)


def test_check_of_a_pod_that_was_never_added(host: Host) -> None:
    """CHECK of an annotated pod that was never added fails with code 3."""
    unknown = host.sandbox(Pod.enrolled("unknown"))
    previous = host.runtime.add_primary(unknown)
    with pytest.raises(CNIError) as error:
        host.runtime.chained("CHECK", unknown, prevResult=previous)
    assert error.value.code == 3


def _valid(*sandboxes: Sandbox) -> list[dict[str, str]]:
    return [{"containerID": s.container_id, "ifname": s.ifname} for s in sandboxes]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (lambda a, b: {"validAttachments": _valid(a, b)}, ["gc-a", "gc-b"]),
        (lambda a, b: {"validAttachments": _valid(a)}, ["gc-a"]),
        (lambda a, b: {"validAttachments": []}, []),
        (lambda a, b: {"validAttachments": None}, []),
        (lambda a, b: {}, ["gc-a", "gc-b"]),
    ],
    ids=["all", "one", "empty", "null", "absent"],
)
def test_gc_removes_what_is_not_valid(host: Host, control: ControlPlane, given: Any, left: list[str]) -> None:
    """GC ends the nodes that the runtime does not list. An empty list or null ends all nodes, a missing list ends none."""
    a, b = host.start(Pod.enrolled("gc-a")), host.start(Pod.enrolled("gc-b"))
    for sandbox in (a, b):
        host.addresses(sandbox)
    shutil.rmtree(host.runtime.cache)  # otherwise libcni itself calls DEL for what is in its cache
    host.runtime.call("GC", **given(a, b))
    assert sorted(node["name"] for node in control.nodes() if node["name"].startswith("gc-")) == left
    assert len(host.nodes()) == 2 * len(left)
    for sandbox in (a, b):
        assert ("ts0" in sandbox.netns.links()) == (sandbox.pod.name in left)


def test_gc_leaves_other_networks_alone(host: Host) -> None:
    """GC of one network leaves another network's attachments alone."""
    web = host.start(Pod.enrolled("network"))
    host.addresses(web)
    environ = {"CNI_COMMAND": "GC", "CNI_PATH": str(host.runtime.bin)}
    entry = host.runtime.entry(name="another") | {"cni.dev/valid-attachments": []}
    assert host.runtime.exec_plugin(environ, entry).returncode == 0
    assert host.running(web)


def test_gc_goes_on_after_one_that_cannot_be_removed(host: Host, control: ControlPlane) -> None:
    """If an attachment's record cannot be read, GC still removes the others."""
    bad, good = host.start(Pod.enrolled("gc-bad")), host.start(Pod.enrolled("gc-good"))
    for sandbox in (bad, good):
        host.addresses(sandbox)
    processes = [host.supervisor(bad), host.worker(bad)]
    record = host.state_dir / "attachments" / bad.container_id / "pods@eth0.json"
    record.write_text("{")
    shutil.rmtree(host.runtime.cache)
    host.runtime.call("GC", validAttachments=[])
    assert control.node("gc-good") is None
    assert "ts0" not in good.netns.links()
    for process in processes:
        process.kill()


def test_status_is_good_whatever_the_control_plane_does(host: Host, control: ControlPlane) -> None:
    """STATUS succeeds during an outage of the control plane, because it checks only the host."""
    host.runtime.status()
    with control.outage():
        host.runtime.status()


def test_status_tells_why_no_pod_could_be_enrolled(host: Host) -> None:
    """STATUS fails with code 50 if the plugin's entry in the network list is invalid, because every ADD fails then."""
    host.configure(readyTimeout="soon")
    with pytest.raises(CNIError) as error:
        host.runtime.status()
    assert error.value.code == 50
    assert "readyTimeout" in error.value.msg


def test_status_is_good_whatever_is_in_the_configuration_file(host: Host) -> None:
    """STATUS succeeds with an invalid config.yaml, so the Kubernetes node stays Ready. Only ADD of enrolled pods fails."""
    file = host.root / "config.yaml"
    file.write_text("readyTimeout: soon\n")
    host.configure(configFile=str(file))
    host.runtime.status()
    host.start(Pod("plain"))
    with pytest.raises(CNIError, match="readyTimeout"):
        host.start(Pod.enrolled("wishful"))


def test_validate_asks_for_the_versions(host: Host) -> None:
    """libcni's validation of the network list calls VERSION and finds the list's version among the supported ones."""
    assert host.runtime.call("VALIDATE") is not None
    done = host.runtime.exec_plugin({"CNI_COMMAND": "VERSION"}, {"cniVersion": "1.1.0"})
    answer = json.loads(done.stdout)
    assert answer["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
