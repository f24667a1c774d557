"""Changes through the control plane's API: the plugin deletes its own nodes and changes their tags, and touches no others."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial

from tests.kit import headscale
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost, oauth
from tests.kit.runtime import Pod
from tests.kit.wait import pass_time, wait_until


def _lasting(pod: str, name: str, **annotations: str) -> Pod:
    return Pod.enrolled(f"{name}-7b5d9c6f8-{pod}", **{"ephemeral": "false", **annotations})


def _names(control: ControlPlane, prefix: str) -> list[str]:
    return sorted(node["name"] for node in control.nodes() if node["name"].startswith(prefix))


@KINDS
def test_a_rollout_leaves_no_second_node(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """After a rollout the new pod has the old pod's node. The new pod's first node is deleted, and nothing of it is left."""
    host = kind(new_host, control)
    now = host.start(_lasting("x2c4b", "roll"))
    first = host.addresses(now)
    for suffix in ("x2c4c", "x2c4d", "x2c4f"):
        new = host.start(_lasting(suffix, "roll"))
        assert host.addresses(new) != first
        host.runtime.delete(now)
        wait_until(partial(host.is_node, new, "roll"), what="the name of the one that ended")
        assert host.addresses(new) == first
        wait_until(lambda: _names(control, "roll") == ["roll"], what="the end of the second node")
        now = new
    assert len([path for path in (host.state_dir / "identities").iterdir() if path.is_dir()]) == 1
    wait_until(lambda: list((host.state_dir / "outbox").iterdir()) == [], what="the outbox to be empty")


@KINDS
def test_a_tag_that_was_taken_away_is_gone(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """A retained node gets the tags that its new pod asks for, at the same address."""
    host = kind(new_host, control)
    old = host.start(_lasting("x2c4b", "tags", tags="tag:k8s-pod,tag:media"))
    before = host.addresses(old)
    host.runtime.delete(old)
    new = host.start(_lasting("x2c4c", "tags", tags="tag:k8s-pod"))
    assert host.addresses(new) == before
    node = control.node("tags")
    assert node
    assert node["tags"] == ["tag:k8s-pod"]


@KINDS
def test_a_rollout_takes_a_tag_away(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """If both pods of a rollout run at once and the new pod takes over the old pod's node, the node gets the new pod's tags."""
    host = kind(new_host, control)
    old = host.start(_lasting("x2c4b", "less", tags="tag:k8s-pod,tag:media"))
    before = host.addresses(old)
    new = host.start(_lasting("x2c4c", "less", tags="tag:k8s-pod"))
    host.addresses(new)
    host.runtime.delete(old)
    wait_until(partial(host.is_node, new, "less"), what="the name of the one that ended")
    assert host.addresses(new) == before
    node = control.node("less")
    assert node
    assert node["tags"] == ["tag:k8s-pod"]


@KINDS
def test_a_deletion_that_could_not_be_told_is_told_later(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """If the control plane is down when a pod ends, the node is deleted after the control plane's return."""
    host = kind(new_host, control)
    pod = host.start(Pod.enrolled("unsaid"))
    host.addresses(pod)
    with control.outage():
        host.runtime.delete(pod)
        assert [path.suffix for path in (host.state_dir / "outbox").iterdir()] == [".json"]
    wait_until(lambda: control.node("unsaid") is None, what="the end of the node")
    wait_until(lambda: host.leftovers() == [], what="nothing left")


@KINDS
def test_another_node_of_the_same_id_is_left_alone(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """A node with the recorded ID but another node key is not deleted: a restored control plane can reuse IDs."""
    host = kind(new_host, control)
    pod, friend = host.start(Pod.enrolled("mine")), host.start(Pod.enrolled("friend"))
    host.addresses(pod)
    host.addresses(friend)
    victim = control.node("friend")
    assert victim
    note = host.run_dir / host.id(pod) / "node"
    stable, key = note.read_text().split()
    other, _ = (host.run_dir / host.id(friend) / "node").read_text().split()
    note.write_text(f"{other} {key}\n")
    with control.outage():
        host.runtime.delete(pod)
    wait_until(lambda: list((host.state_dir / "outbox").iterdir()) == [], what="the outbox to be empty")
    assert [node["nodeKey"] for node in control.nodes() if node["name"] == "friend"] == [victim["nodeKey"]]
    assert stable != other


@KINDS
def test_another_node_of_a_kept_identitys_id_keeps_its_tags(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """If a retained node's ID belongs to another node, that node keeps its tags, and the pod is a new node with its own tags."""
    host = kind(new_host, control)
    pod, friend = host.start(_lasting("x2c4b", "kept")), host.start(Pod.enrolled("friend"))
    host.addresses(pod)
    host.addresses(friend)
    victim = control.node("friend")
    assert victim
    host.runtime.delete(pod)
    other, _ = (host.run_dir / host.id(friend) / "node").read_text().split()
    (record,) = (host.state_dir / "identities").glob("*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"node_id": other}))
    new = host.start(_lasting("x2c4c", "kept", tags="tag:media"))
    host.addresses(new)
    wait_until(lambda: list((host.state_dir / "outbox").iterdir()) == [], what="the outbox to be empty")
    (mine,) = [node for node in control.nodes() if node["tags"] == ["tag:media"] and node["online"]]
    assert mine["hostname"] == "kept"
    now = control.node("friend")
    assert now
    assert (now["nodeKey"], now["tags"]) == (victim["nodeKey"], victim["tags"])


def test_what_cannot_be_read_keeps_nothing_else_from_being_said(
    new_host: NewHost, control: ControlPlane
) -> None:
    """A broken file in the outbox stays, and the other files are sent."""
    host = oauth(new_host, control)
    pod = host.start(Pod.enrolled("between"))
    host.addresses(pod)
    outbox = host.state_dir / "outbox"
    outbox.mkdir(mode=0o700)
    for name, text in (("0.json", "{"), ("f.json", json.dumps({"node_id": 1}))):
        (outbox / name).write_text(text)
    with control.outage():
        host.runtime.delete(pod)
    wait_until(lambda: control.node("between") is None, what="the end of the node")
    assert {path.name for path in outbox.iterdir()} >= {"0.json", "f.json"}


@KINDS
def test_a_rollout_from_host_to_host_ends_with_the_name(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """In a rollout to another host, the new ephemeral pod gets the old pod's hostname once the old pod is gone."""
    old_host, host = (_of_a_cluster(kind, new_host, control) for _ in range(2))
    old = old_host.start(Pod.enrolled("move-7b5d9c6f8-x2c4b"))
    old_host.addresses(old)
    new = host.start(Pod.enrolled("move-7b5d9c6f8-x2c4c"))
    addresses = host.addresses(new)
    first, second = _names(control, "move")
    assert first == "move"
    # Headscale 0.28 does not append a number.
    assert second == "move-1" or (headscale.PROGRAM and second.startswith("move-"))
    old_host.runtime.delete(old)
    wait_until(partial(host.is_node, new, "move"), what="the name of the one that ended")
    assert host.addresses(new) == addresses
    assert _names(control, "move") == ["move"]


@KINDS
def test_a_persons_device_keeps_its_name(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """A pod that asks for the hostname of a person's device never gets it, even after its handover window."""
    with ExitStack() as stack:
        notebook = control.add_stranger("notebook")
        stack.callback(control.delete_node, notebook)
        host = _of_a_cluster(kind, new_host, control, handoverWindow="12s")
        host.addresses(host.start(Pod.enrolled("notebook-7b5d9c6f8-x2c4b")))
        pass_time(15)
        named = {node["name"]: node["id"] for node in control.nodes() if node["name"].startswith("notebook")}
        assert named.pop("notebook") == notebook
        assert set(named) == {"notebook-1"}


def _of_a_cluster(kind: Kind, new_host: NewHost, control: ControlPlane, **config: str) -> Host:
    """A host that is part of a cluster. The cluster's API is down, which does not matter here."""
    host = kind(new_host, control, **config)
    host.configure(kubeconfig=str(host.root / "kubeconfig"))
    return host
