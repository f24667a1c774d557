"""``tailscale-cni identities``: what is kept for pods to come, and forgetting what nobody wants any more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailscale_cni.state.installation import Installation
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost
from tests.kit.process import Failed
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until


def _identities(host: Host) -> dict[str, dict[str, Any]]:
    """What is kept, by name."""
    said = host.command("identities", "--state-dir", str(host.state_dir), "-o", "json")
    return {item["name"]: item for item in json.loads(said)["items"]}


def _forget(host: Host, identity: str) -> str:
    """What it says. Raises AssertionError where it fails."""
    done = host.netns.attempt(
        host.runtime.plugin, "identities", "forget", identity, "--state-dir", str(host.state_dir)
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


@pytest.fixture
def kept(new_host: NewHost, control: ControlPlane) -> Host:
    """A host with a static key whose nodes last."""
    host = new_host()
    host.set_key(control.mint(ephemeral=False).key)
    return host


def test_what_is_kept_is_listed(kept: Host, control: ControlPlane) -> None:
    """A row per node that lasts, with the pod that it is now, or when it last was one; no row of one that is ephemeral."""
    assert kept.command("identities", "--state-dir", str(kept.state_dir)) == "No node is kept on this host.\n"
    db = kept.start(Pod.enrolled("listed-1", namespace="data"))
    kept.addresses(kept.start(Pod.enrolled("shortlived")))
    addresses = kept.addresses(db)
    (row,) = _identities(kept).values()
    node = control.node("listed-1")
    assert node
    assert (row["namespace"], row["name"], row["number"]) == ("data", "listed-1", 0)
    assert (row["node"], row["addresses"]) == (node["fqdn"].rstrip("."), addresses)
    assert (row["pod"], row["last_used"]) == ("listed-1", None)
    kept.runtime.delete(db)
    (row,) = _identities(kept).values()
    assert row["pod"] is None
    assert row["last_used"].startswith("20")
    header, line = kept.command("identities", "--state-dir", str(kept.state_dir)).splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "NODE", "IP", "POD", "LAST-USED"]
    assert line.split() == ["data", "listed-1", row["node"], ",".join(addresses), "-", row["last_used"]]


@KINDS
def test_what_is_forgotten_is_gone(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """Its node is deleted and its keys are removed, unless a pod is that node; the next pod of the name is another one."""
    host = kind(new_host, control)
    db = host.start(Pod.enrolled("forgotten-0"))
    Installation("/nowhere", "/nowhere", host.config).save(str(host.state_dir))
    host.addresses(db)
    old = control.node("forgotten-0")
    assert old
    with pytest.raises(Failed, match="pod default/forgotten-0 is that node now"):
        host.command("identities", "--state-dir", str(host.state_dir), "forget", "default/forgotten-0")
    assert control.node("forgotten-0")
    host.runtime.delete(db)
    assert "is deleted" in _forget(host, "default/forgotten-0")
    assert control.node("forgotten-0") is None
    assert _identities(host) == {}
    assert [name for name in host.leftovers() if "install.json" not in name] == []
    with pytest.raises(Failed, match="no identity 'default/forgotten-0' is kept"):
        host.command("identities", "--state-dir", str(host.state_dir), "forget", "default/forgotten-0")
    host.addresses(host.start(Pod.enrolled("forgotten-0")))
    new = control.node("forgotten-0")
    assert new
    assert new["nodeKey"] != old["nodeKey"]


@KINDS
def test_what_is_forgotten_in_an_outage_is_gone_later(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """The command says so, and does not wait for the control plane's return; its key names it, too."""
    host = kind(new_host, control)
    db = host.start(Pod.enrolled("later-0"))
    Installation("/nowhere", "/nowhere", host.config).save(str(host.state_dir))
    host.addresses(db)
    host.runtime.delete(db)
    with control.outage():
        assert "will be deleted" in _forget(host, _identities(host)["later-0"]["key"])
    assert _identities(host) == {}
    assert control.node("later-0")
    host.addresses(host.start(Pod.enrolled("passes-by")))
    wait_until(lambda: control.node("later-0") is None, what="the end of the node")


def test_with_a_static_key_a_person_is_told_what_is_left_to_do(kept: Host, control: ControlPlane) -> None:
    """There is no API to delete the node through: its keys go, and it stays offline."""
    db = kept.start(Pod.enrolled("told-0"))
    kept.addresses(db)
    kept.runtime.delete(db)
    assert "until you delete it there" in _forget(kept, "default/told-0")
    assert kept.leftovers() == []
    node = control.node("told-0")
    assert node
    control.delete_node(node["id"])
