"""``tailscale-cni status``: what it prints about a host's nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit import traffic
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import NewHost, headscale, oauth, write_secret
from tests.kit.process import Failed
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until


def test_status_shows_every_node(host: Host) -> None:
    """``status`` prints a row per enrolled pod with name, addresses and state, as a table or as JSON."""
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


def test_status_says_whom_a_node_talks_to(host: Host) -> None:
    """``status`` shows a node's path to its peers and its last handshake. A node without traffic is idle."""
    a, b, c = (host.start(Pod.enrolled(name)) for name in ("a-talker", "a-listener", "a-hermit"))
    (_, address), _ = host.addresses(b), host.addresses(c)
    with traffic.web_server(b.netns, host.root / "web.log"):
        traffic.fetch(a.netns, f"http://[{address}]/")

    def said() -> dict[str, tuple[str, bool]]:
        document = json.loads(host.command("status", "--state-dir", str(host.state_dir), "-o", "json"))
        return {item["pod"]: (item["path"], bool(item["last_handshake"])) for item in document["items"]}

    talks, idle = ("direct", True), ("idle", False)
    wanted = {"a-talker": talks, "a-listener": talks, "a-hermit": idle}
    wait_until(lambda: said() == wanted, what="the two that talk")


def test_status_of_one_namespace(host: Host) -> None:
    """``status -n`` prints only the nodes of one namespace."""
    for name in ("one", "two"):
        host.addresses(host.start(Pod.enrolled(name, namespace=f"of-{name}")))
    said = host.command("status", "--state-dir", str(host.state_dir), "-n", "of-two")
    assert "of-two" in said
    assert "of-one" not in said


def test_status_fails_when_a_node_does_not_run(host: Host, control: ControlPlane) -> None:
    """If a node is not Running, ``status`` exits with 1 and shows the node."""
    host.configure(readyTimeout="0s")
    with control.outage():
        host.start(Pod.enrolled("waiting"))
        with pytest.raises(Failed) as error:
            host.command("status", "--state-dir", str(host.state_dir))
    assert "exit status 1" in str(error.value)
    assert "waiting" in str(error.value)


def test_status_of_a_host_without_nodes(host: Host) -> None:
    """Without nodes ``status`` succeeds and prints a sentence, or an empty list as JSON."""
    assert host.command("status", "--state-dir", str(host.state_dir)) == "No pod on this host is a node.\n"
    document = json.loads(host.command("status", "--state-dir", str(host.state_dir), "-o", "json"))
    assert document["items"] == []


def _credentials(host: Host) -> tuple[list[dict[str, Any]], str]:
    """The credentials in the JSON of ``status``, and its standard error, which is for people."""
    done = host.netns.attempt(host.runtime.plugin, "status", "--state-dir", str(host.state_dir), "-o", "json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["credentials"]
    return found, done.stderr.decode()


def test_status_says_when_the_credential_ends(new_host: NewHost, control: ControlPlane) -> None:
    """``status`` says when a Headscale API key expires, and explains how to replace it if that is soon.

    If the control plane does not answer, the JSON has a note and nothing is printed.
    """
    host = headscale(new_host, control)
    host.start(Pod.enrolled("ends"))
    file = str(host.root / "apikey")
    (soon,), said = _credentials(host)
    assert (soon["file"], soon["url"], soon["urgent"]) == (file, control.url, True)
    assert "within two days" in said
    assert "headscale apikeys create" in said
    write_secret(host.root / "apikey", control.new_api_key(90 * 86400))
    (later,), said = _credentials(host)
    assert later["urgent"] is False
    assert later["expires"] > soon["expires"]
    assert said == f"The credential in {file} expires on {later['expires'][:10]}.\n"
    with control.outage():
        (unknown,), said = _credentials(host)
        assert (unknown["expires"], unknown["urgent"], said) == (None, False, "")
        assert "did not say when its credential expires" in unknown["note"]
    write_secret(host.root / "apikey", control.new_api_key(-5))
    (ended,), said = _credentials(host)
    assert ended["urgent"] is True
    assert "has expired" in said


def test_status_says_nothing_of_what_does_not_end(
    new_host: NewHost, control: ControlPlane, host: Host
) -> None:
    """``status`` prints no expiry for an OAuth client, which does not expire, and no credential for a static key."""
    client = oauth(new_host, control)
    client.start(Pod.enrolled("stays"))
    ((stays,), said) = _credentials(client)
    assert (stays["expires"], stays["note"], said) == (None, "", "")
    host.start(Pod.enrolled("static"))
    assert _credentials(host) == ([], "")
