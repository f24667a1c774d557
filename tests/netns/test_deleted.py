"""Nodes that an admin deletes from the tailnet, on a host with ``onDeleted: stop``."""

from __future__ import annotations

import json

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost
from tests.kit.process import Failed
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until


def _status(host: Host) -> tuple[dict[str, dict[str, str]], str]:
    """The rows of ``status`` by pod, and its standard error. Asserts that ``status`` exits with 1."""
    done = host.netns.attempt(host.runtime.plugin, "status", "--state-dir", str(host.state_dir), "-o", "json")
    assert done.returncode == 1, done.stdout
    return {item["pod"]: item for item in json.loads(done.stdout)["items"]}, done.stderr.decode()


def _delete(host: Host, control: ControlPlane, sandbox: Sandbox) -> str:
    """Delete a running pod's node from the tailnet, as an admin does. Returns the deleted node's key."""
    host.addresses(sandbox)
    wait_until((host.run_dir / host.id(sandbox) / "was-online").exists, what="the control plane's word")
    node = control.node(sandbox.pod.name)
    assert node
    control.delete_node(node["id"])
    key: str = node["nodeKey"]
    return key


@KINDS
def test_a_node_that_was_deleted_stays_so(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """A deleted node ends and no call starts it. ``status``, CHECK and ADD say why. DEL leaves nothing; the next pod is a new node."""
    host = kind(new_host, control, onDeleted="stop")
    web = host.start(Pod.enrolled("unwanted"))
    old = _delete(host, control, web)
    wait_until(lambda: host.nodes() == [], what="the end of the node")
    host.addresses(host.start(Pod.enrolled("passes-by")))
    assert control.node("unwanted") is None
    rows, said = _status(host)
    assert {pod: row["state"] for pod, row in rows.items()} == {"unwanted": "Deleted", "passes-by": "Running"}
    assert rows["unwanted"]["note"] in said
    assert "pod default/unwanted: its node was deleted" in said
    assert "Delete the pod" in said
    with pytest.raises(CNIError, match="was deleted"):
        host.runtime.check(web)
    with pytest.raises(CNIError, match="was deleted"):
        host.runtime.chained("ADD", web, prevResult={"cniVersion": "1.1.0"})
    assert control.node("unwanted") is None
    host.runtime.delete(web)
    host.addresses(host.start(Pod.enrolled("unwanted")))
    new = control.node("unwanted")
    assert new
    assert new["nodeKey"] != old


def test_nothing_of_it_is_left(new_host: NewHost, control: ControlPlane) -> None:
    """DEL of a pod removes its deleted node's retained keys, which are worthless. The next pod is a new node."""
    host = new_host(onDeleted="stop")
    host.set_key(control.mint(ephemeral=False).key)
    db = host.start(Pod.enrolled("unwanted-0"))
    old = _delete(host, control, db)
    wait_until(lambda: host.nodes() == [], what="the end of the node")
    host.runtime.delete(db)
    assert host.leftovers() == []
    host.addresses(host.start(Pod.enrolled("unwanted-0")))
    new = control.node("unwanted-0")
    assert new
    assert new["nodeKey"] != old


def test_one_that_was_deleted_before_its_pod_began_registers_anew(
    new_host: NewHost, control: ControlPlane
) -> None:
    """A pod registers a new node if an admin deleted its retained node before the pod started."""
    host = new_host(onDeleted="stop")
    host.set_key(control.mint(ephemeral=False).key)
    db = host.start(Pod.enrolled("between-0"))
    host.addresses(db)
    host.runtime.delete(db)
    old = control.node("between-0")
    assert old
    control.delete_node(old["id"])
    new = host.start(Pod.enrolled("between-0"))
    wait_until(lambda: control.node("between-0"), what="a new node")
    host.addresses(new)
    now = control.node("between-0")
    assert now
    assert now["nodeKey"] != old["nodeKey"]


def test_a_deleted_node_inherits_nothing(new_host: NewHost, control: ControlPlane) -> None:
    """The hostname of a pod that ends goes to the next new pod, not to a pod whose node was deleted."""
    host = new_host(onDeleted="stop")
    first, second = (host.start(Pod.enrolled(f"heir-7b5d9c6f8-x2c4{c}")) for c in "bc")
    host.addresses(first)
    host.addresses(second)
    wait_until((host.run_dir / host.id(second) / "was-online").exists, what="the control plane's word")
    node = control.node("heir-1")
    assert node
    control.delete_node(node["id"])
    wait_until(lambda: len(host.nodes()) == 2, what="the end of the node")
    host.runtime.delete(first)
    third = host.start(Pod.enrolled("heir-7b5d9c6f8-x2c4d"))
    host.addresses(third)
    assert host.node(third)["Self"]["HostName"] == "heir"


def test_a_host_takes_no_other_word(new_host: NewHost) -> None:
    """An ``onDeleted`` other than ``register`` or ``stop`` fails ADD."""
    host = new_host(onDeleted="ignore")
    with pytest.raises(CNIError, match="onDeleted") as error:
        host.start(Pod.enrolled("word"))
    assert "register or stop" in error.value.details


def test_the_note_survives_a_supervisor_that_dies(new_host: NewHost, control: ControlPlane) -> None:
    """If a supervisor dies after it recorded that its node was deleted, upkeep does not start the node again."""
    host = new_host(onDeleted="stop")
    web = host.start(Pod.enrolled("noted"))
    host.addresses(web)
    (host.run_dir / host.id(web) / "deleted").touch(0o600)
    for process in host.supervisor(web), host.worker(web):
        process.kill()
    host.addresses(host.start(Pod.enrolled("passes-by")))
    assert len(host.nodes()) == 2
    with pytest.raises(Failed, match="Deleted"):
        host.command("status", "--state-dir", str(host.state_dir))
