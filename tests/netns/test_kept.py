"""Retained identities: ``tailscale-cni identities`` lists and forgets them, and ephemeral pods can have their hostnames."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tailscale_cni.install.record import Installation
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost, headscale
from tests.kit.process import Failed
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until

SUFFIXES = iter("bcdfghjklmnpqrstvwxz")


def _identities(host: Host) -> dict[str, dict[str, Any]]:
    """The retained identities, by name."""
    said = host.command("identities", "--state-dir", str(host.state_dir), "-o", "json")
    return {item["name"]: item for item in json.loads(said)["items"]}


def _forget(host: Host, identity: str) -> str:
    """Forget an identity and return what the command prints. Raises AssertionError if the command fails."""
    done = host.netns.attempt(
        host.runtime.plugin, "identities", "forget", identity, "--state-dir", str(host.state_dir)
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


@pytest.fixture
def kept(new_host: NewHost, control: ControlPlane) -> Host:
    """A host with a static key for nodes that are not ephemeral."""
    host = new_host()
    host.set_key(control.mint(ephemeral=False).key)
    return host


def test_what_is_kept_is_listed(kept: Host, control: ControlPlane) -> None:
    """``identities`` lists each retained identity with its pod, or with its last use. It does not list ephemeral nodes."""
    assert (
        kept.command("identities", "--state-dir", str(kept.state_dir))
        == "This host has no retained identities.\n"
    )
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
    """``forget`` deletes the node and its keys, unless a pod uses the identity. The next pod of the name is a new node."""
    host = kind(new_host, control)
    db = host.start(Pod.enrolled("forgotten-0"))
    Installation("/nowhere", "/nowhere", host.config).save(str(host.state_dir))
    host.addresses(db)
    old = control.node("forgotten-0")
    assert old
    with pytest.raises(Failed, match="pod default/forgotten-0 is using this identity"):
        host.command("identities", "--state-dir", str(host.state_dir), "forget", "default/forgotten-0")
    assert control.node("forgotten-0")
    host.runtime.delete(db)
    assert "is deleted" in _forget(host, "default/forgotten-0")
    assert control.node("forgotten-0") is None
    assert _identities(host) == {}
    assert [name for name in host.leftovers() if "install.json" not in name] == []
    with pytest.raises(Failed, match="'default/forgotten-0' does not match exactly one retained identity"):
        host.command("identities", "--state-dir", str(host.state_dir), "forget", "default/forgotten-0")
    host.addresses(host.start(Pod.enrolled("forgotten-0")))
    new = control.node("forgotten-0")
    assert new
    assert new["nodeKey"] != old["nodeKey"]


@KINDS
def test_what_is_forgotten_in_an_outage_is_gone_later(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """During an outage ``forget`` says that the node will be deleted, and does not wait. It accepts the identity's key, too."""
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
    """With a static key ``forget`` removes the keys and asks you to delete the node, which stays offline: there is no API."""
    db = kept.start(Pod.enrolled("told-0"))
    kept.addresses(db)
    kept.runtime.delete(db)
    assert "until you delete it there" in _forget(kept, "default/told-0")
    assert kept.leftovers() == []
    node = control.node("told-0")
    assert node
    control.delete_node(node["id"])


def _named(control: ControlPlane, key: str) -> str:
    """The current name, in the tailnet, of the node with the node key ``key``."""
    return str(next(node["name"] for node in control.nodes() if node["nodeKey"] == key))


def _replica(name: str, *, lasts: bool) -> Pod:
    ephemeral = "false" if lasts else "true"
    return Pod.enrolled(f"{name}-7b5d9c6f8-x2c4{next(SUFFIXES)}", ephemeral=ephemeral)


@KINDS
def test_an_ephemeral_pod_has_the_name_of_what_is_only_kept(
    new_host: NewHost, control: ControlPlane, kind: Kind
) -> None:
    """An ephemeral pod gets the hostname of an unused retained identity, which is renamed until a non-ephemeral pod returns."""
    host = kind(new_host, control)
    first = host.start(_replica("way", lasts=True))
    addresses = host.addresses(first)
    old = control.node("way")
    assert old
    host.runtime.delete(first)
    guest = host.start(_replica("way", lasts=False))
    assert host.addresses(guest) != addresses
    now = control.node("way")
    assert now
    assert now["nodeKey"] != old["nodeKey"]
    aside = _named(control, old["nodeKey"])
    assert aside.startswith("way-kept-")
    (row,) = _identities(host).values()
    assert (row["node"].partition(".")[0], row["pod"], row["addresses"]) == (aside, None, addresses)
    host.runtime.delete(guest)
    last = host.start(_replica("way", lasts=True))
    assert host.addresses(last) == addresses
    assert _named(control, old["nodeKey"]) == "way"
    assert [node["name"] for node in control.nodes() if node["name"].startswith("way")] == ["way"]


@KINDS
def test_a_rollout_changes_what_lasts(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """Rollouts to an ephemeral pod and back keep the workload's hostname, and the retained address returns with the last one."""
    host = kind(new_host, control)
    pod = host.start(_replica("turn", lasts=True))
    addresses = host.addresses(pod)
    for lasts in (False, True):
        new = host.start(_replica("turn", lasts=lasts))
        host.addresses(new)
        host.runtime.delete(pod)
        wait_until(partial(host.is_node, new, "turn"), what="the workload's name")
        assert (host.addresses(new) == addresses) is lasts
        pod = new
    wait_until(
        lambda: [n["name"] for n in control.nodes() if n["name"].startswith("turn")] == ["turn"],
        what="no other node of the name",
    )


def test_a_control_plane_that_is_away_loses_no_name(new_host: NewHost, control: ControlPlane) -> None:
    """An ephemeral pod that starts during an outage gets the retained identity's hostname when it registers."""
    host = headscale(new_host, control, readyTimeout="300ms")
    first = host.start(_replica("lost", lasts=True))
    host.addresses(first)
    host.runtime.delete(first)
    with control.outage():
        guest = host.start(_replica("lost", lasts=False))
    host.addresses(guest)
    node = control.node("lost")
    assert node
    assert node["addresses"] == host.addresses(guest)


def test_with_a_static_key_an_ephemeral_pod_disturbs_nothing(kept: Host, control: ControlPlane) -> None:
    """With a static key a retained node cannot be renamed, so it keeps its name, and an ephemeral pod becomes a second node."""
    first = kept.start(_replica("calm", lasts=True))
    addresses = kept.addresses(first)
    old = control.node("calm")
    assert old
    kept.runtime.delete(first)
    kept.set_key(control.mint().key)
    guest = kept.start(_replica("calm", lasts=False))
    assert kept.addresses(guest) != addresses
    assert _named(control, old["nodeKey"]) == "calm"
    kept.runtime.delete(guest)
    assert kept.addresses(kept.start(_replica("calm", lasts=True))) == addresses
