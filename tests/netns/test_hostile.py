"""Hostile annotations lead to an error or to a node of the pod's own, and never change another node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni.policy.annotations import TABLE, Annotation
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.peer import Peer
from tests.kit.planes import KINDS, Kind, NewHost
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until

VALUES = {
    "newline": 'true\nTS_AUTHKEY="x"',
    "nul": "true\0",
    "bidi": "\u202eeurt",
    "long": "x" * 262144,
    "path": "../../../etc/shadow",
    "option": "--login-server=http://evil.example",
    "shell": "$(touch /tmp/owned)`id`;reboot",
}
"""Values that no annotation accepts."""


@pytest.fixture
def neighbour(host: Host) -> Sandbox:
    """A pod in another namespace, with a retained identity."""
    pod = host.start(Pod.enrolled("plex", namespace="media", ephemeral="false"))
    host.addresses(pod)
    return pod


@pytest.mark.parametrize("row", [row for row in TABLE if row.parse], ids=lambda row: row.name)
def test_a_hostile_value_is_an_error_and_no_more(
    host: Host, control: ControlPlane, neighbour: Sandbox, row: Annotation
) -> None:
    """A hostile value is refused in one short line that names the annotation. Host, tailnet and other pods stay unchanged."""
    before = state(host), tailnet(control)
    pod = host.sandbox(Pod.enrolled("evil"))
    previous = host.runtime.add_primary(pod)
    for value in VALUES.values():
        annotations = {**pod.pod.annotations, row.key: value}
        hostile = host.adopt(pod, Pod("evil", annotations=annotations))
        with pytest.raises(CNIError) as error:
            host.runtime.chained("ADD", hostile, prevResult=previous)
        assert error.value.code == 101
        assert f"pod default/evil: annotation {row.key}=" in error.value.msg
        assert (error.value.msg + error.value.details).isprintable()
        assert len(error.value.msg) < 500
        assert "ts0" not in pod.netns.links()
    assert (state(host), tailnet(control)) == before
    host.runtime.check(neighbour)


@KINDS
@pytest.mark.parametrize("ephemeral", ["true", "false"])
def test_somebody_elses_name_gives_a_node_of_its_own(
    new_host: NewHost, control: ControlPlane, peer: Peer, kind: Kind, ephemeral: str
) -> None:
    """A pod that asks for the hostname of another namespace's pod or of a person's device becomes a separate node.

    The owner of the hostname keeps its keys, addresses, name and tags, and is not deleted: neither while the pod runs,
    nor after its DEL, nor in a rollout, which hands names over.
    """
    host = kind(new_host, control)
    victim = host.start(Pod.enrolled("plex-7b5d9c6f8-x2c4b", namespace="media", ephemeral="false"))
    host.addresses(victim)
    before = state(host), tailnet(control)
    for name in ("plex", peer.name):
        wishes = {"hostname": name, "ephemeral": ephemeral, "tags": "tag:evil"}
        old, new = (
            host.start(Pod.enrolled(f"evil-7b5d9c6f8-x2c4{suffix}", namespace="evil", **wishes))
            for suffix in ("c", "d")
        )
        addresses = {address for pod in (old, new) for address in host.addresses(pod)}
        assert len(addresses) == 4
        assert not addresses & {a for node in before[1].values() for a in node["addresses"]}
        host.runtime.delete(old)
        wait_until(lambda: len(by(control, "tag:evil")) == 1, what="one of the two")
        host.addresses(new)
        host.runtime.delete(new)
        wait_until(lambda: not any(node["online"] for node in by(control, "tag:evil")), what="its end")
        assert changed(state(host), before[0]) == []
        for node in by(control, "tag:evil"):
            control.delete_node(node["id"])
        assert tailnet(control) == before[1]
    host.runtime.check(victim)


def by(control: ControlPlane, tag: str) -> list[dict[str, Any]]:
    """The nodes that have the tag ``tag``."""
    return [node for node in control.nodes() if tag in node["tags"]]


def tailnet(control: ControlPlane) -> dict[str, dict[str, Any]]:
    """All nodes by node key, with the fields that change only if somebody changes the node."""
    names = ("id", "nodeKey", "name", "fqdn", "hostname", "addresses", "tags", "ephemeral")
    return {node["nodeKey"]: {name: node[name] for name in names} for node in control.nodes()}


def state(host: Host) -> dict[str, str]:
    """The plugin's records of pods, and the key files without their content, by path.

    Other files that a worker writes beside its keys are left out, because they come and go.
    """
    return {str(path.relative_to(host.root)): what for path, what in _kept(host)}


def _kept(host: Host) -> Iterator[tuple[Path, str]]:
    for path in sorted(host.state_dir.rglob("*")):
        if path.is_symlink():
            yield path, str(path.readlink())
        elif "cache" in path.parts or not path.is_file():
            continue
        elif path.parent.parent != host.state_dir / "identities":
            yield path, path.read_text()
        elif path.name == "tailscaled.state":
            yield path, ""


def changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
    """The paths of ``before`` that are missing now or have other content."""
    return [path for path, what in before.items() if now.get(path) != what]
