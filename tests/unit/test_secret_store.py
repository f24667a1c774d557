"""Identities in the cluster: which host can lease which, what a Secret can contain, and what is queued for release."""

from __future__ import annotations

import base64
import copy
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailscale_cni import errors
from tailscale_cni.cni import request
from tailscale_cni.config import load_config
from tailscale_cni.identity import lease
from tailscale_cni.identity.secret_store import Entry, Holder, Record, SecretStore, held_as
from tailscale_cni.kube import client
from tailscale_cni.policy import PodIntent
from tailscale_cni.state import files, node_files
from tailscale_cni.state.host import host_id
from tailscale_cni.state.releases import Release, Releases

from .cni_call import config, environ

STATE = b'{"_machinekey":"cHJpdmtleQ=="}'
ONE = Holder("node1", "uid1", "host1", "boot1", "key1")
TWO = Holder("node2", "uid2", "host2", "boot2", "key2")


class Cluster(client.Api):
    """Secrets, Nodes and pods in memory. As in Kubernetes, a change must name the current resourceVersion."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.nodes = {"node1": "uid1", "node2": "uid2"}
        self.tainted: set[str] = set()
        self.unwell: set[str] = set()
        self.boots: dict[str, str] = {}
        self.pods: dict[str, str] = {}
        self.versions = 0

    def get(self, path: str) -> dict[str, Any] | None:
        """Returns a Node, a pod, all Secrets, or one of them."""
        if "/nodes/" in path:
            name = path.rpartition("/")[2]
            taints = [{"key": client.OUT_OF_SERVICE}] if name in self.tainted else []
            uid = self.nodes.get(name)
            status = {
                "nodeInfo": {"bootID": self.boots.get(name)},
                "conditions": [{"type": "Ready", "status": "False" if name in self.unwell else "True"}],
            }
            return {"metadata": {"uid": uid}, "spec": {"taints": taints}, "status": status} if uid else None
        if "/pods/" in path:
            node = self.pods.get(path.rpartition("/")[2])
            return {"metadata": {"uid": "u"}, "spec": {"nodeName": node}} if node else None
        if "?" in path:
            return {"items": copy.deepcopy(list(self.secrets.values()))}
        return copy.deepcopy(self.secrets.get(path.rpartition("/")[2]))

    def change(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create, change or delete a Secret."""
        name = body["metadata"]["name"] if method == "POST" else path.rpartition("/")[2]
        there = self.secrets.get(name)
        if (there is None) != (method == "POST"):
            raise client.Conflict
        said = body.get("preconditions", body.get("metadata", {})).get("resourceVersion")
        if there and there["metadata"]["resourceVersion"] != said:
            raise client.Conflict
        if method == "DELETE":
            return self.secrets.pop(name)
        self.versions += 1
        self.secrets[name] = copy.deepcopy(
            {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.versions)}}
        )
        return copy.deepcopy(self.secrets[name])


@pytest.fixture
def cluster() -> Cluster:
    """A cluster with two Nodes and no identity."""
    return Cluster()


@pytest.fixture
def store(cluster: Cluster) -> SecretStore:
    """The identities of the hostname ``web``."""
    return SecretStore(cluster, "default", "web")


def take(store: SecretStore, holder: Holder, **more: Any) -> int | None:
    """Lease an identity. Returns its number, or None."""
    taken = store.take(holder, more.pop("number", None), more.pop("taken", ()), **more)
    return taken.entry.number if taken else None


def release(store: SecretStore, holder: Holder) -> None:
    """Release the identity of a holder."""
    entry = held_as(store.entries(), holder)
    assert entry
    store.save(entry._replace(holder=None, released_by=holder, files={node_files.STATE: STATE}))


def test_everybody_gets_the_lowest_number_that_nobody_has(store: SecretStore) -> None:
    """A lease is for the lowest free number. A released identity is leased with its keys."""
    assert take(store, ONE) == 0
    assert take(store, TWO) == 1
    assert take(store, TWO._replace(key="more"), taken=(2,)) == 3
    release(store, ONE)
    taken = store.take(TWO._replace(key="heir"), None, ())
    assert taken
    assert (taken.entry.number, taken.entry.files) == (0, {node_files.STATE: STATE})


def test_an_identity_is_taken_from_a_host_that_is_gone_and_from_no_other(
    cluster: Cluster, store: SecretStore
) -> None:
    """Another host can lease an identity if the holder's Node is gone, has another UID or is tainted out-of-service."""
    assert take(store, ONE) == 0
    assert take(store, TWO, number=0) == 1
    cluster.nodes["node1"] = "uid of a later one"
    assert take(store, TWO._replace(key="b")) == 0
    cluster.tainted.add("node2")
    assert take(store, ONE._replace(key="c")) == 0
    del cluster.nodes["node1"]
    assert take(store, TWO._replace(key="d")) == 0


def test_a_host_takes_back_what_it_knows_nothing_of(store: SecretStore) -> None:
    """A host can lease again what an aborted call of its own holds. If its disk is a copy from another Node, it cannot."""
    assert take(store, ONE) == 0
    assert take(store, ONE._replace(key="twin"), has=lambda key: key == "key1") == 1
    copy = ONE._replace(node="node2", node_uid="uid2", boot="later", key="copy")
    assert take(store, copy, has=lambda _: False) == 2
    assert take(store, ONE._replace(boot="later", key="before-a-reboot")) == 3
    assert take(store, ONE._replace(key="again"), has=lambda key: key != "key1") == 0


def test_a_host_that_has_lost_its_disk_takes_back_what_it_had(store: SecretStore) -> None:
    """A host that lost its disk can lease its identities again after a reboot. Before that, a node may still run, and a message says so."""
    assert take(store, ONE) == 0
    anew = ONE._replace(host="another", key="anew")
    taken = store.take(anew, None, ())
    assert taken
    assert taken.entry.number == 1
    assert "before its state directory was removed" in taken.refusals[0]
    assert take(store, anew._replace(node_uid="of a later one", boot="later", key="other")) == 2
    assert take(store, anew._replace(boot="later")) == 0


@pytest.mark.parametrize("node", ["..", "a/b", "node1/../node9"])
def test_whoever_cannot_be_asked_about_is_not_nobody(cluster: Cluster, store: SecretStore, node: str) -> None:
    """A Secret whose holder has an impossible Node name is invalid and cannot be leased."""
    assert take(store, ONE._replace(node=node)) == 0
    assert take(store, TWO) == 1
    del cluster.secrets["default.web.1"]
    assert store.entries() == {0: None}


def test_a_secret_has_one_name(cluster: Cluster, store: SecretStore) -> None:
    """The Secret of a number has exactly one name: 00 is not number 0."""
    assert take(store, ONE) == 0
    odd = copy.deepcopy(cluster.secrets["default.web.0"])
    odd["metadata"]["name"] = "default.web.00"
    cluster.secrets["default.web.00"] = odd
    release(store, ONE)
    assert take(store, TWO) == 0


def test_of_two_that_want_one_the_quicker_has_it(
    cluster: Cluster, store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two hosts want the same free identity, the first change wins and the other host gets the next number."""
    assert take(store, ONE) == 0
    release(store, ONE)
    seen = store.entries()
    assert take(store, ONE._replace(key="quicker")) == 0
    monkeypatch.setattr(store, "entries", lambda: seen)
    assert take(store, TWO) == 1


def test_a_better_number_is_one_that_is_there(store: SecretStore) -> None:
    """A search for a better number creates no identity and takes no worse number."""
    assert take(store, ONE) == 0
    assert take(store, TWO) == 1
    assert take(store, TWO._replace(key="b"), below=1) is None
    release(store, ONE)
    assert take(store, TWO._replace(key="b"), below=1) == 0
    assert take(store, TWO._replace(key="c"), number=7, below=0) is None


def test_the_worst_off_has_the_better_number(cluster: Cluster, store: SecretStore) -> None:
    """A better number goes to the pod with the highest number. If that pod's host is not Ready, another pod can take it."""
    for n in range(2):
        assert take(store, ONE._replace(key=str(n))) == n
    assert take(store, TWO) == 2
    release(store, ONE._replace(key="0"))
    assert take(store, ONE._replace(key="middle"), below=1) is None
    cluster.unwell.add("node2")
    assert take(store, ONE._replace(key="middle"), below=1) == 0
    cluster.unwell.clear()
    release(store, ONE._replace(key="1"))
    assert take(store, TWO._replace(key="worst"), below=2) == 1


def test_a_pod_with_a_number_of_its_own_is_nobody_else_meanwhile(store: SecretStore) -> None:
    """A StatefulSet pod whose number is held gets a new number, not the identity of another pod that moves between hosts."""
    assert [take(store, ONE._replace(key=str(n)), number=n) for n in range(3)] == [0, 1, 2]
    release(store, ONE._replace(key="0"))
    assert take(store, TWO, number=2) == 3
    assert take(store, TWO._replace(key="db-0"), number=0) == 0


def test_what_is_not_ours_in_a_secret_stays(cluster: Cluster, store: SecretStore) -> None:
    """Labels of users in a Secret are kept. Unknown files are removed."""
    take(store, ONE)
    secret = cluster.secrets["default.web.0"]
    secret["metadata"]["labels"]["mine"] = "yes"
    secret["data"]["../../etc/passwd"] = "eA=="
    release(store, ONE)
    assert cluster.secrets["default.web.0"]["metadata"]["labels"]["mine"] == "yes"
    assert set(cluster.secrets["default.web.0"]["data"]) == {"record.json", node_files.STATE}


def test_what_a_newer_version_has_in_a_record_stays(cluster: Cluster, store: SecretStore) -> None:
    """Unknown fields of a newer version in a Secret are kept, because hosts are upgraded one after the other."""
    assert take(store, ONE) == 0
    data = cluster.secrets["default.web.0"]["data"]
    record = json.loads(base64.b64decode(data["record.json"]))
    data["record.json"] = base64.b64encode(json.dumps({**record, "later": [1]}).encode()).decode()
    release(store, ONE)
    assert take(store, TWO) == 0
    now = json.loads(base64.b64decode(cluster.secrets["default.web.0"]["data"]["record.json"]))
    assert (now["later"], now["holder"]["key"]) == ([1], TWO.key)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"record.json": "!"},
        {"record.json": ["e30="]},
        {"record.json": "e30="},
        {"record.json": "A" * 2**20},
        {"record.json": {"holder": {}}},
        {"record.json": {"holder": {**ONE._asdict(), "key": ""}}},
        {"record.json": {"holder": "node1"}},
        {"record.json": {"version": 2}},
        {node_files.STATE: b"[]"},
        {node_files.STATE: b'{"a":1}'},
        {node_files.STATE: b"{" * 10_000},
        {node_files.STATE: b'{"a":"' + b"x" * node_files.MAX_FILE + b'"}'},
        {"settings.json": b"null"},
    ],
)
def test_a_secret_that_is_not_as_we_write_it_is_nobodys(
    cluster: Cluster, store: SecretStore, data: dict[str, Any]
) -> None:
    """An invalid Secret is not leased, read or changed. The pod gets the next number, and a message names the Secret."""
    record = {"version": 1, **Record()._asdict(), "holder": None, "releasedBy": None}
    content = {
        name: base64.b64encode(json.dumps({**record, **value}).encode()).decode()
        if isinstance(value, dict)
        else base64.b64encode(value).decode()
        if isinstance(value, bytes)
        else value
        for name, value in data.items()
    }
    whole = {"record.json": base64.b64encode(json.dumps(record).encode()).decode()} if data else {}
    secret = {"metadata": {"name": "default.web.0", "resourceVersion": "1"}, "type": "tailscale.com/identity"}
    cluster.secrets["default.web.0"] = {**secret, "data": {**whole, **content}}
    before = copy.deepcopy(cluster.secrets["default.web.0"])
    taken = store.take(ONE, None, ())
    assert taken
    assert taken.entry.number == 1
    assert "has an invalid format" in taken.refusals[0]
    assert cluster.secrets["default.web.0"] == before
    with pytest.raises(errors.UnreadableState):
        store.entry(0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=10,
)


@given(JSON, JSON)
def test_whatever_a_secret_is_reading_it_raises_nothing(record: Any, secret: Any) -> None:
    """Reading a Secret with any JSON, inside or outside its record, raises no exception."""
    cluster = Cluster()
    packed = base64.b64encode(json.dumps(record).encode()).decode()
    cluster.secrets = {
        "a": {"metadata": {"name": "default.web.0"}, "data": {"record.json": packed}},
        "b": secret,
        "c": {"metadata": {"name": "default.web.1"}, "data": secret},
    }
    entries = SecretStore(cluster, "default", "web").entries()
    assert all(entry is None or isinstance(entry, Entry) for entry in entries.values())


def test_an_identity_does_not_show_its_keys(store: SecretStore) -> None:
    """The representation of an identity shows no keys, for example in a traceback or log."""
    assert take(store, ONE) == 0
    release(store, ONE)
    assert "cHJpdmtleQ" not in repr(store.entries()) + repr(store.take(ONE, None, ()))


def test_files_are_read_without_following_anybody(tmp_path: Path) -> None:
    """The worker owns its directory, so a link, a pipe or a large file in it is not read as a file of the node."""
    secret, place = tmp_path / "secret", tmp_path / "node"
    secret.write_bytes(STATE)
    place.mkdir()
    (place / node_files.STATE).symlink_to(secret)
    assert node_files.read(str(place)) == {}
    (place / node_files.STATE).unlink()
    os.mkfifo(place / node_files.STATE)
    assert node_files.read(str(place)) == {}
    (place / node_files.STATE).unlink()
    (place / node_files.STATE).write_bytes(b" " * node_files.MAX_FILE + STATE)
    assert node_files.read(str(place)) == {}
    (place / node_files.STATE).write_bytes(STATE)
    (place / "settings.json").symlink_to(secret)
    assert node_files.read(str(place)) == {node_files.STATE: STATE}
    (tmp_path / "link").symlink_to(place)
    assert node_files.read(str(tmp_path / "link")) == {}


def test_files_are_written_where_nothing_was(tmp_path: Path) -> None:
    """The files of a node are written into a new directory that only root can access, under known names only."""
    place = tmp_path / "node"
    place.mkdir()
    (place / node_files.STATE).symlink_to(tmp_path / "target")
    node_files.write(str(place), {node_files.STATE: STATE, "../escaped": b"x"})
    assert [path.name for path in place.iterdir()] == [node_files.STATE]
    assert (place / node_files.STATE).stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node"]


def test_a_host_has_one_id(tmp_path: Path) -> None:
    """A host's ID is created once, and only root can read it."""
    known = host_id(str(tmp_path))
    assert len(known) == 32
    assert host_id(str(tmp_path)) == known
    assert (tmp_path / "host").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["host"]


def test_what_is_owed_is_one_callers_at_a_time(tmp_path: Path) -> None:
    """Only one process can hold a release. A release that is done cannot be held. Invalid ones are ignored."""
    releases, one = Releases(str(tmp_path)), Release("k", "/kubeconfig", "default", "web")
    releases.post(one)
    (tmp_path / "releases" / "broken.json").write_text("{")
    (tmp_path / "releases" / "odd.json").write_text(
        '{"key":"odd","kubeconfig":"","namespace":"..","name":"/"}'
    )
    assert list(releases.all()) == [one]
    hold = releases.hold("k")
    assert hold is not None
    assert releases.hold("k") is None
    os.close(hold)
    hold = releases.hold("k")
    assert hold is not None
    releases.done("k")
    os.close(hold)
    assert releases.hold("k") is None


def test_a_release_that_was_tried_waits(tmp_path: Path) -> None:
    """A release that was just tried is not tried again for a while."""
    releases = Releases(str(tmp_path))
    assert not releases.waiting(60)
    releases.post(Release("k", "/kubeconfig", "default", "web"))
    assert not releases.waiting(60)
    os.utime(tmp_path / "releases" / "k.json", (0, 0))
    assert releases.waiting(60)
    releases.postpone("k")
    assert not releases.waiting(60)


def test_a_kubeconfig_that_cannot_be_used_leaves_the_disk(tmp_path: Path) -> None:
    """With an unusable kubeconfig, the identity is stored on the host, the log line says why, and no release is queued."""
    files.make_directory(str(tmp_path / "names"))
    host = load_config(
        {"stateDir": str(tmp_path), "configFile": os.devnull, "kubeconfig": str(tmp_path / "none")}
    )
    warnings: list[str] = []
    asked = request.parse(
        environ(ARGS="K8S_POD_NAMESPACE=default;K8S_POD_NAME=db-0;K8S_POD_UID=u"),
        json.dumps(config()).encode(),
    )
    intent = PodIntent("db", None, ("tag:a",), ephemeral=False, required=False, stateful=True)
    with lease.reserved(asked._replace(warn=warnings.append), host, intent, time.monotonic() + 5) as (
        granted,
        reservation,
    ):
        assert (granted, reservation) == (intent, None)
    assert "stored on this host only" in warnings[0]
    assert list((tmp_path / "releases").iterdir()) == []
