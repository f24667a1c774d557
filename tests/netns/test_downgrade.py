"""Records that the previous, this or a later version wrote, and records that are broken."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kit import headscale, tools
from tests.kit.controlplane import ControlPlane
from tests.kit.host import Host
from tests.kit.planes import KINDS, Kind, NewHost
from tests.kit.planes import headscale as headscale_host
from tests.kit.runtime import CNIError, Pod, Sandbox
from tests.kit.wait import wait_until

LATER = {"later": {"list": [1, None]}, "unknown": "x"}
"""Fields that a later version adds to a record."""


@pytest.fixture(scope="module")
def versions() -> tuple[bytes, bytes]:
    """The artefacts of the previous version and of this version."""
    return tools.previous().read_bytes(), tools.artefact().read_bytes()


DIRECTIONS = pytest.mark.parametrize("back", [False, True], ids=["upgrade", "downgrade"])


@pytest.fixture
def turns(versions: tuple[bytes, bytes], back: bool) -> tuple[bytes, bytes]:  # noqa: FBT001 - a parameter of the test
    """The artefacts in the order of the test: the version that starts, then the version that continues."""
    old, new = versions
    return (new, old) if back else (old, new)


def _change_to(host: Host, artefact: bytes) -> None:
    """Install another version and run its ``upgrade``, so that all nodes run its programs."""
    host.runtime.replace_plugin(artefact)
    done = host.netns.attempt(host.runtime.plugin, "upgrade", "--state-dir", host.state_dir)
    assert done.returncode == 0, done.stderr


def _records(host: Host) -> Iterator[Path]:
    """The JSON records of pods and nodes."""
    for room in ("attachments/*", "identities", "outbox", "releases"):
        yield from host.state_dir.glob(f"{room}/*.json")


def _lasting(name: str, suffix: str) -> Pod:
    return Pod.enrolled(f"{name}-7b5d9c6f8-{suffix}", ephemeral="false")


@DIRECTIONS
def test_pods_of_both_versions(
    new_host: NewHost, control: ControlPlane, turns: tuple[bytes, bytes], versions: tuple[bytes, bytes]
) -> None:
    """Each version upgrades, checks and deletes pods that the other version added, and nothing is left of them."""
    first, second = turns
    host = headscale_host(new_host, control)
    host.runtime.replace_plugin(first)
    pods = [host.start(Pod.enrolled("early")), host.start(_lasting("keeps", "x2c4b"))]
    addresses = [host.addresses(pod) for pod in pods]
    _change_to(host, second)
    pods.append(host.start(Pod.enrolled("late")))
    addresses.append(host.addresses(pods[2]))
    for version, name in ((second, "more"), (first, "last")):
        _change_to(host, version)
        for pod, expected in zip(pods, addresses, strict=True):
            assert host.addresses(pod) == expected
            _check(host, pod, waits=version == versions[0])
        pods.append(host.start(Pod.enrolled(name)))
        addresses.append(host.addresses(pods[-1]))
    host.runtime.delete(pods[0])
    host.runtime.delete(pods[3])
    _change_to(host, second)
    for pod in pods:
        host.runtime.delete(pod)
    wait_until(lambda: _names(control, "early", "late", "more", "last") == [], what="the nodes' end")
    _change_to(host, first)
    again = host.start(_lasting("keeps", "x2c4c"))
    assert host.addresses(again) == addresses[1]
    host.runtime.delete(again)
    assert [path for path in _records(host) if path.parent.name != "identities"] == []


def _check(host: Host, pod: Sandbox, *, waits: bool) -> None:
    """Call CHECK. The previous version finds this version's firewall wrong until its own next ``sync``; this version does not."""
    if waits:
        wait_until(lambda: _passes(host, pod), what="a CHECK of the previous version that passes")
    else:
        host.runtime.check(pod)


def _passes(host: Host, pod: Sandbox) -> bool:
    with contextlib.suppress(CNIError):
        host.runtime.check(pod)
        return True
    return False


def _names(control: ControlPlane, *names: str) -> list[str]:
    return [node["name"] for node in control.nodes() if node["name"] in names]


@DIRECTIONS
def test_a_rollout_over_two_versions(
    new_host: NewHost, control: ControlPlane, turns: tuple[bytes, bytes]
) -> None:
    """If one version adds the new pod and the other deletes the old pod, the node is handed over and no second node stays."""
    first, second = turns
    host = headscale_host(new_host, control)
    host.runtime.replace_plugin(first)
    old = host.start(_lasting("roll", "x2c4b"))
    before = host.addresses(old)
    new = host.start(_lasting("roll", "x2c4c"))
    host.addresses(new)
    _change_to(host, second)
    host.runtime.delete(old)
    wait_until(partial(host.is_node, new, "roll"), what="the name of the one that ended")
    assert host.addresses(new) == before
    wait_until(lambda: _names(control, "roll", "roll-1") == ["roll"], what="the end of the second node")


@DIRECTIONS
@KINDS
def test_a_deletion_is_told_by_the_other_version(
    new_host: NewHost, control: ControlPlane, kind: Kind, turns: tuple[bytes, bytes]
) -> None:
    """A node's deletion that one version queued during an outage is sent by the other version."""
    first, second = turns
    host = kind(new_host, control)
    host.runtime.replace_plugin(first)
    pod, other = host.start(Pod.enrolled("unsaid")), host.start(Pod.enrolled("other"))
    host.addresses(pod)
    host.addresses(other)
    with control.outage():
        host.runtime.delete(pod)
        _end_deliveries(host)
        assert len(list((host.state_dir / "outbox").glob("*.json"))) == 1
    assert control.node("unsaid")
    host.runtime.replace_plugin(second)
    host.runtime.delete(other)
    wait_until(lambda: control.node("unsaid") is None, what="the end of the node")


def _end_deliveries(host: Host) -> None:
    """Kill the processes that send queued changes to control planes. Only the next call sends them then."""
    kept = {process.pid for process in host.nodes()}
    while left := [process for process in host.processes() if process.pid not in kept]:
        for process in left:
            process.kill()


@KINDS
def test_what_a_later_version_adds_is_kept(new_host: NewHost, control: ControlPlane, kind: Kind) -> None:
    """Records with unknown fields and a later version number work as usual and keep these fields."""
    host = kind(new_host, control)
    pod, gone = host.start(_lasting("later", "x2c4b")), host.start(Pod.enrolled("gone"))
    before = host.addresses(pod)
    host.addresses(gone)
    with control.outage():
        host.runtime.delete(gone)
        _end_deliveries(host)
    kinds = set()
    for path in _records(host):
        kinds.add(path.relative_to(host.state_dir).parts[0])
        path.write_text(json.dumps(json.loads(path.read_text()) | LATER | {"version": 2}))
    assert kinds == {"attachments", "identities", "outbox"}
    _change_to(host, tools.other_build(7))
    wait_until(lambda: control.node("gone") is None, what="the end of the node")
    host.runtime.check(pod)
    assert host.addresses(pod) == before
    (record,) = host.state_dir.glob("attachments/*/*.json")
    assert json.loads(record.read_text())["build"] == f"{7:020}"
    assert _has_later(record)
    host.runtime.delete(pod)
    again = host.start(_lasting("later", "x2c4c"))
    assert host.addresses(again) == before
    assert all(map(_has_later, host.state_dir.glob("identities/*.json")))


def _has_later(path: Path) -> bool:
    document = json.loads(path.read_text())
    return bool({**document, **LATER, "version": 2} == document)


ODD: dict[str, Callable[[Path], Any]] = {
    "an empty object": lambda path: path.write_text("{}"),
    "the beginning of one": lambda path: path.write_text('{"key":"x","uid":7,"node_i'),
    "a directory": lambda path: (path / "x").mkdir(parents=True),
    "a FIFO": os.mkfifo,
}
"""What can be in place of a record. tests/unit/test_records.py has more cases."""


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_costs_no_other_pod(new_host: NewHost, control: ControlPlane, odd: str) -> None:
    """Broken records of every kind do not affect other pods. Queued files stay, and a call's log line names what is broken."""
    host = headscale_host(new_host, control)
    victim, pod = host.start(_lasting("victim", "x2c4b")), host.start(Pod.enrolled("fine"))
    host.addresses(victim)
    before = host.addresses(pod)
    (identity,) = host.state_dir.glob("identities/*.json")
    (attachment,) = host.state_dir.glob(f"attachments/{victim.container_id}/*.json")
    places = [identity, attachment, host.state_dir / "install.json", host.state_dir / "enroll.json"]
    queued = [host.state_dir / room / f"{'0' * 16}.json" for room in ("outbox", "releases")]
    places += [*queued, host.run_dir / "patience" / "host", host.state_dir / "namespaces" / "default.json"]
    for path in places:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        ODD[odd](path)
    host.runtime.status()
    host.runtime.check(pod)
    another = host.start(Pod.enrolled("another"))
    assert host.addresses(pod) == before
    host.addresses(another)
    plain = host.start(Pod("plain"))
    host.runtime.delete(plain)
    said = _delete_and_read(host, pod)
    for path in (*queued, host.state_dir / "install.json"):
        assert f"{path} is not valid state of this plugin" in said
        assert os.path.lexists(path)
    host.runtime.delete(another)
    host.runtime.gc(victim)
    host.runtime.delete(victim)  # DEL of the pod with the broken record succeeds too
    again = host.start(_lasting("victim", "x2c4c"))
    host.addresses(again)
    assert (host.state_dir / "unreadable").is_dir()
    host.runtime.delete(again)
    assert all(map(os.path.lexists, queued))


def _delete_and_read(host: Host, pod: Sandbox) -> str:
    """Delete a pod and return the log line of its DEL."""
    log = host.root / "calls.log"
    (host.root / "config.yaml").write_text(f"logFile: {log}\n")
    host.runtime.delete(pod)
    return log.read_text().splitlines()[-1]


@pytest.mark.skipif(bool(headscale.PROGRAM), reason="what devcontrol gives out is what this looks at")
@pytest.mark.parametrize("content", ["", "{", '{"uid": 7}'])
def test_a_lost_identity_is_registered_anew(new_host: NewHost, control: ControlPlane, content: str) -> None:
    """If a retained identity cannot be read, its pod still ends, and the next pod registers with new keys."""
    host = headscale_host(new_host, control)
    pod = host.start(_lasting("lost", "x2c4b"))
    host.addresses(pod)
    before = control.node("lost")
    (identity,) = host.state_dir.glob("identities/*.json")
    identity.write_text(content)
    _delete_and_read(host, pod)
    again = host.start(_lasting("lost", "x2c4c"))
    said = (host.root / "calls.log").read_text()
    assert (f"{identity} is not valid state of this plugin" in said) == (content != '{"uid": 7}')
    host.addresses(again)
    assert before
    online = [node for node in control.nodes() if node["hostname"] == "lost" and node["online"]]
    assert [node["nodeKey"] != before["nodeKey"] for node in online] == [True]
    assert len(list(host.state_dir.glob("claims/port/*"))) == 1
