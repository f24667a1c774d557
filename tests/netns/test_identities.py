"""Retained identities: nodes that outlive their pods, and hostnames that survive a rollout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

SUFFIXES = iter("bcdfghjklmnpqrstvwxz")


@pytest.fixture(autouse=True)
def _lasting(host: Host, control: ControlPlane) -> Iterator[None]:
    """Give the host a static key for nodes that are not ephemeral. Delete the nodes that are left at the end."""
    host.set_key(control.mint(ephemeral=False).key)
    yield
    for node in control.nodes():
        if "tag:k8s-pod" in node["tags"] and not node["online"]:
            control.delete_node(node["id"])


def _replica(name: str, **annotations: str) -> Pod:
    """A new pod of a Deployment."""
    return Pod.enrolled(f"{name}-7b5d9c6f8-x2c4{next(SUFFIXES)}", **{"ephemeral": "false", **annotations})


def test_a_lasting_node_is_the_same_when_its_pod_comes_back(
    host: Host, control: ControlPlane, peer: Peer
) -> None:
    """A pod that comes back is the same node, with name, addresses and port. In between, the node is offline."""
    old = host.start(Pod.enrolled("postgres-0"))
    before, (port,) = host.addresses(old), host.ports(old)
    host.runtime.delete(old)
    wait_until(lambda: (control.node("postgres-0") or {"online": True})["online"] is False, what="offline")
    assert host.processes() == []
    new = host.start(Pod.enrolled("postgres-0"))
    assert host.addresses(new) == before
    assert host.ports(new) == {port}
    assert [n["name"] for n in control.nodes() if n["hostname"].startswith("postgres")] == ["postgres-0"]
    wait_until(lambda: peer.ping("postgres-0"), what="the pod at the peer")


@pytest.mark.long
def test_ten_rollouts_end_with_the_name_and_the_addresses_of_the_first(
    host: Host, control: ControlPlane
) -> None:
    """After each of ten rollouts the new pod has the first pod's name and addresses. Each new pod starts before the old one ends."""
    now = host.start(_replica("plex"))
    first = host.addresses(now)
    for _ in range(10):
        new = host.start(_replica("plex"))
        assert host.addresses(new) != first
        assert host.node(new)["Self"]["HostName"] == "plex-1"
        host.runtime.delete(now)
        wait_until(partial(host.is_node, new, "plex"), what="the name of the one that ended")
        assert host.addresses(new) == first
        now = new
    assert len(host.nodes()) == 2


def test_an_ephemeral_rollout_ends_with_the_name(host: Host, control: ControlPlane) -> None:
    """After a rollout of ephemeral pods the new node is renamed to the old hostname, and nothing of the old node is left."""
    host.set_key(control.mint().key)
    old = host.start(_replica("jellyfin", ephemeral="true"))
    host.addresses(old)
    new = host.start(_replica("jellyfin", ephemeral="true"))
    addresses = host.addresses(new)
    host.runtime.delete(old)
    wait_until(lambda: host.is_node(new, "jellyfin"), what="the name of the one that ended")
    assert host.addresses(new) == addresses
    assert [n["name"] for n in control.nodes() if n["name"].startswith("jellyfin")] == ["jellyfin"]
    host.runtime.delete(new)
    assert host.leftovers() == []


def test_a_handover_survives_whoever_dies_in_it(host: Host, control: ControlPlane) -> None:
    """If the new pod's supervisor is dead when the old pod ends, its next start still takes over the old pod's node."""
    old, new = host.start(_replica("dies")), host.start(_replica("dies"))
    first = host.addresses(old)
    host.addresses(new)
    for process in host.supervisor(new), host.worker(new):
        process.kill()
    host.runtime.delete(old)
    host.start(Pod.enrolled("passes-by"))
    wait_until(lambda: host.is_node(new, "dies"), what="the name of the one that ended")
    assert host.addresses(new) == first


def test_a_hundred_pods_of_one_name(host: Host, control: ControlPlane) -> None:
    """A hundred pods with one hostname, added in parallel, get a hundred different numbers and node keys."""
    host.set_key(control.mint().key)
    sandboxes = [host.sandbox(Pod.enrolled(f"crowd{n}x", hostname="crowd")) for n in range(100)]
    host.runtime.add(
        sandboxes[0]
    )  # unpacks the artefact: under load, the other calls would time out while they wait for that
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(host.runtime.add, sandboxes[1:]))
        list(pool.map(host.addresses, sandboxes))
    nodes = [node for node in control.nodes() if node["name"].startswith("crowd")]
    assert {node["name"] for node in nodes} == {"crowd", *(f"crowd-{n}" for n in range(1, 100))}
    assert len({node["nodeKey"] for node in nodes}) == 100
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(host.runtime.delete, sandboxes))
    wait_until(lambda: host.leftovers() == [], what="nothing left")


def test_after_a_reboot_a_pod_is_who_it_was(host: Host) -> None:
    """After a reboot, when kubelet starts new containers without a DEL for the old ones, a pod is the same node as before."""
    old = host.start(_replica("reboots"))
    before = host.addresses(old)
    record = next((host.state_dir / "attachments" / old.container_id).iterdir())
    document = json.loads(record.read_text())
    record.write_text(json.dumps(document | {"boot_id": "of-before"}))
    for process in host.supervisor(old), host.worker(old):
        process.kill()
    old.netns.close()
    new = host.start(_replica("reboots"))
    assert host.addresses(new) == before
    assert host.node(new)["Self"]["HostName"] == "reboots"
