"""``tailscale-cni status``: what a person sees of a host's nodes."""

from __future__ import annotations

import json

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.process import Failed
from tests.kit.runtime import Pod


def test_status_shows_every_node(host: Host) -> None:
    """A row per enrolled pod, with its name, its addresses and its state; as JSON the same."""
    for name in ("one", "two"):
        host.addresses(host.start(Pod.enrolled(name, namespace=f"of-{name}")))
    host.start(Pod("plain"))
    header, *rows = host.command("status", "--state-dir", str(host.state_dir)).splitlines()
    assert header.split()[:5] == ["NAMESPACE", "POD", "NAME", "IP", "STATE"]
    assert [row.split()[:2] for row in rows] == [["of-one", "one"], ["of-two", "two"]]
    document = json.loads(host.command("status", "--state-dir", str(host.state_dir), "-o", "json"))
    items = {item["pod"]: item for item in document["items"]}
    assert document["apiVersion"] == "tailscale-cni/v1"
    for sandbox in host.sandboxes[:2]:
        item = items[sandbox.pod.name]
        assert item["state"] == "Running"
        assert item["addresses"] == host.addresses(sandbox)
        assert item["tags"] == ["tag:k8s-pod"]
        assert {item["port"]} == host.ports(sandbox)


def test_status_of_one_namespace(host: Host) -> None:
    """``-n`` leaves the other namespaces out."""
    for name in ("one", "two"):
        host.addresses(host.start(Pod.enrolled(name, namespace=f"of-{name}")))
    said = host.command("status", "--state-dir", str(host.state_dir), "-n", "of-two")
    assert "of-two" in said
    assert "of-one" not in said


def test_status_fails_when_a_node_does_not_run(host: Host, control: ControlPlane) -> None:
    """A node that is not Running makes the exit status 1, and is shown with its state."""
    host.configure(readyTimeout="0s")
    with control.outage():
        host.start(Pod.enrolled("waiting"))
        with pytest.raises(Failed) as error:
            host.command("status", "--state-dir", str(host.state_dir))
    assert "exit status 1" in str(error.value)
    assert "waiting" in str(error.value)


def test_status_of_a_host_without_nodes(host: Host) -> None:
    """No node is no error, and said in a sentence; as JSON it is an empty list."""
    assert host.command("status", "--state-dir", str(host.state_dir)) == "No pod of this host is a node.\n"
    document = json.loads(host.command("status", "--state-dir", str(host.state_dir), "-o", "json"))
    assert document["items"] == []
