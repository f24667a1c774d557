"""Releases reach the cluster despite crashes and lost answers: no identity is leased twice, and none is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni import errors, linux
from tailscale_cni.cni import request
from tailscale_cni.cni.request import Pod
from tailscale_cni.config import load_config
from tailscale_cni.identity import handover, lease, release, renew, retained
from tailscale_cni.identity.reservation import Reservation
from tailscale_cni.identity.secret_store import Holder, Record, SecretStore
from tailscale_cni.node import teardown
from tailscale_cni.policy import PodIntent
from tailscale_cni.state import identities, node_files
from tailscale_cni.state.attachments import Attachment
from tailscale_cni.state.claims import Claims
from tailscale_cni.state.host import host_id
from tailscale_cni.state.hostnames import Hostname
from tailscale_cni.state.identities import Identity
from tailscale_cni.state.outbox import Outbox
from tailscale_cni.state.releases import Release, Releases

from .cni_call import config, environ
from .test_hostnames import Host, kept_in_cluster
from .test_node_keys import PRIVATE, PUBLIC, state
from .test_secret_store import Cluster

LASTING = PodIntent("web", None, ("tag:a",), ephemeral=False, required=False, stateful=False)
STATE, NODE_KEY = state(f"privkey:{PRIVATE}"), f"nodekey:{PUBLIC}"
ELSEWHERE = Holder("node2", "uid2", "host2", "boot2", "key2")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without pods."""
    return Host(tmp_path)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that the host can ask. Changes that a child process makes have no effect."""
    cluster = Cluster()
    monkeypatch.setattr(release, "cluster_api", lambda _: cluster)
    return cluster


def secret_store_of(cluster: Cluster) -> SecretStore:
    """Returns the identities of the hostname ``web`` in the cluster."""
    return SecretStore(cluster, "default", "web")


def registered(host: Host, cluster: Cluster, boot: str = "", **more: Any) -> Attachment:
    """Add a pod whose node and keys are in the cluster. The lease is from the boot ``boot``, by default the current one."""
    one = kept_in_cluster(host, **more)
    Path(one.identity_dir, node_files.STATE).write_bytes(STATE)
    holder = Holder("node1", "uid1", host_id(str(host.root)), boot or one.boot_id, one.identity)
    taken = secret_store_of(cluster).take(holder, one.number, ())
    assert taken
    secret_store_of(cluster).save(taken.entry._replace(files={node_files.STATE: STATE}))
    return one


def reservation(host: Host, cluster: Cluster, node: str = "node1") -> Reservation | None:
    """Returns the reservation of an unreleased identity for the hostname's next pod on the host of this Node, or None."""
    cluster.pods["web-x"] = node
    settings = {"stateDir": str(host.root), "configFile": os.devnull, "kubeconfig": "/kubeconfig"}
    name = Hostname(host.store, "default", "web")
    with ExitStack() as holds:
        return lease._unreleased(
            load_config(settings), Pod("default", "web-x", "u"), name, LASTING, time.monotonic() + 5, holds
        )


def only(releases: Releases) -> Release:
    """Returns the only release."""
    (one,) = releases.all()
    return one


def test_a_lost_answer_gives_an_identity_away(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the answer to a release is lost, another host may hold the identity. No pod here uses it without a new lease."""
    one = registered(host, cluster)
    host.delete(one)
    assert reservation(host, cluster)
    change = cluster.change

    def lost(method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        change(method, path, body)
        raise errors.KubernetesFailed(reason="its answer did not come")

    monkeypatch.setattr(cluster, "change", lost)
    assert release.make(str(host.root), only(Releases(str(host.root)))) is release.Outcome.LATER
    monkeypatch.setattr(cluster, "change", change)
    monkeypatch.setattr(cluster, "get", _away)
    assert reservation(host, cluster) is None


def _away(_: str) -> dict[str, Any]:
    raise errors.KubernetesFailed(reason="connection refused")


def test_an_api_that_was_not_reached_leaves_it_at_hand(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a release did not reach the API, the next pod here is the same node, without asking the API."""
    one = registered(host, cluster)
    host.delete(one)
    monkeypatch.setattr(cluster, "get", _away)
    assert release.make(str(host.root), only(Releases(str(host.root)))) is release.Outcome.LATER
    found = reservation(host, cluster)
    assert found
    assert found.key == one.identity


def test_what_another_host_has_by_now_is_not_at_hand(host: Host, cluster: Cluster) -> None:
    """Keys on the disk are not used if another host leased the identity while this host was off."""
    one = registered(host, cluster)
    host.delete(one)
    cluster.nodes["node1"] = "uid of a later one"
    assert secret_store_of(cluster).take(ELSEWHERE, 0, ())
    assert reservation(host, cluster) is None


def with_a_node(host: Host, cluster: Cluster) -> Attachment:
    """Add a pod that has moved to another identity. The cluster knows the node of its former identity."""
    one = registered(host, cluster)
    known = Identity.load(str(host.root), one.identity)._replace(node_id="n7", node_key=NODE_KEY)
    known.save(str(host.root))
    vault = secret_store_of(cluster)
    entry = vault.entry(0)
    assert entry
    vault.save(entry._replace(record=release.secret_record(known)))
    with Hostname.of(one).locked():
        Hostname.of(one).stop_retaining(one.number)
    return one._replace(identity="better", former=(one.identity,))


def said(host: Host) -> list[str]:
    """Returns the IDs of the nodes whose deletion is queued."""
    return [deletion.node_id for deletion in Outbox(str(host.root)).all()]


def test_a_node_that_is_left_behind_ends_with_its_secret(host: Host, cluster: Cluster) -> None:
    """The deletion of a former identity's device is queued only after its Secret is deleted."""
    one = with_a_node(host, cluster)
    handover.dispose_of_former(host.store, one)
    assert said(host) == []
    assert release.deliver(str(host.root), 0) == 0
    assert said(host) == ["n7"]
    assert cluster.secrets == {}


def test_a_node_that_another_host_runs_by_now_is_not_deleted(host: Host, cluster: Cluster) -> None:
    """If another host has leased the former identity, neither its Secret nor its device is deleted."""
    one = with_a_node(host, cluster)
    cluster.nodes["node1"] = "uid of a later one"
    assert secret_store_of(cluster).take(ELSEWHERE, 0, ())
    handover.dispose_of_former(host.store, one)
    assert release.deliver(str(host.root), 0) == 0
    assert said(host) == []
    assert set(cluster.secrets) == {"default.web.0"}


def test_an_answer_that_is_lost_keeps_no_node(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the Secret is already gone because an answer was lost, the device is still deleted."""
    handover.dispose_of_former(host.store, with_a_node(host, cluster))
    cluster.secrets.clear()
    assert release.deliver(str(host.root), 0) == 0
    assert said(host) == ["n7"]


def test_forgetting_leaves_alone_what_another_host_runs(host: Host, cluster: Cluster) -> None:
    """Forgetting a stale copy of an identity that another host runs removes only the copy."""
    one = with_a_node(host, cluster)
    cluster.nodes["node1"] = "uid of a later one"
    assert secret_store_of(cluster).take(ELSEWHERE, 0, ())
    (key,) = one.former
    name = Hostname.of(one)
    with name.locked():
        name.free(0)
        name.retain(0, key)
    host.store.forget(one)
    Releases(str(host.root)).post(Release(key, "/kubeconfig", "default", "web"))
    (stale,) = retained.every(str(host.root))
    settings = {"stateDir": str(host.root), "configFile": os.devnull, "oauthClientSecretFile": "/secret"}
    asked = load_config(settings)._replace(control_url=stale.identity.control_url)
    assert retained.forget(str(host.root), stale, asked)
    assert said(host) == []
    assert release.deliver(str(host.root), 0) == 0
    assert said(host) == []
    assert not Path(identities.directory(str(host.root), key)).exists()


def test_what_is_lost_is_gone_with_its_pod(host: Host, cluster: Cluster) -> None:
    """A lost identity is removed with its pod's record, so that the next pod does not use its keys or delete its device."""
    one = registered(host, cluster)._replace(lost=True)
    host.store.save(one)
    with host.store.locked(one.container_id):
        teardown._remove_files(host.store, one)
    assert Hostname.of(one).all_retained() == {}
    assert not Path(one.identity_dir).exists()
    assert list(Releases(str(host.root)).all()) == []


def test_a_host_knows_what_its_pods_have(host: Host, cluster: Cluster) -> None:
    """A host knows the identities that its pods have or are about to have, and those that are queued for release."""
    one = registered(host, cluster)
    name = Hostname.of(one)
    assert release.is_known(name, one.identity)
    assert not release.is_known(name, "other")
    assert not release.is_known(name, "../attachments")
    Releases(str(host.root)).post(Release("other", "/kubeconfig", "default", "web"))
    assert release.is_known(name, "other")
    host.delete(one)
    assert release.is_known(name, one.identity)
    assert release.deliver(str(host.root), 0) == 0
    assert not release.is_known(name, one.identity)


def test_keys_that_become_the_clusters_survive_a_crash(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If ADD is killed while it moves keys to the cluster, they are still retained for their number or in the Secret."""
    for step in ("rename", "retain"):
        one = host.add(ephemeral=False)
        Path(one.identity_dir, node_files.STATE).write_bytes(STATE)
        host.delete(one)
        _adopted_to(host, cluster, monkeypatch, step)
        assert release.deliver(str(host.root), 0) == 0
        name = Hostname.of(one)
        with_keys = [
            key for key in name.all_retained().values() if identities.is_registered(str(host.root), key)
        ]
        entry = secret_store_of(cluster).entry(0)
        assert with_keys or (entry and entry.files)
        monkeypatch.undo()


def _adopted_to(host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """An ADD moves the host's own identity to the cluster, and is killed at a step."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "cluster_api", lambda _: cluster)
    holder = Holder("node1", "uid1", host_id(str(host.root)), "boot1", f"new-{step}")
    assert secret_store_of(cluster).take(holder, 0, ())
    Releases(str(host.root)).post(Release(holder.key, "/kubeconfig", "default", "web"))
    place: object = identities if step == "rename" else Hostname
    monkeypatch.setattr(place, step, killed)
    identity = Identity(holder.key, kubeconfig="/kubeconfig")
    with pytest.raises(KeyboardInterrupt):
        lease.adopt(str(host.root), Hostname(host.store, "default", "web"), 0, identity, {})


def test_a_secret_is_not_made_again_for_what_a_pod_was(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deleted Secret of a former identity is not created again, because it would never be released."""
    one = registered(host, cluster, number=0)
    cluster.secrets.clear()
    holder = Holder("node1", "uid1", host_id(str(host.root)), one.boot_id, one.identity)
    monkeypatch.setattr(renew, "own_holder", lambda *_: holder)
    assert renew._recreated(cluster, one)
    host.store.save(one._replace(identity="better", former=(one.identity,)))
    assert renew._recreated(cluster, one) is None


def test_a_copy_of_a_disk_gives_nothing_away(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloned host has another Node. It neither uses nor releases the identities on its disk, which the original runs."""
    monkeypatch.setattr(release, "STALE_STATUS", 0.0)
    one = registered(host, cluster, boot="of-the-original")
    cluster.boots["node1"] = "of-the-original"
    before = cluster.secrets["default.web.0"]
    assert not renew._confirm(cluster, one)
    host.delete(one)
    assert reservation(host, cluster, "node2") is None
    assert release.deliver(str(host.root), 0) == 0
    assert cluster.secrets["default.web.0"] == before
    assert not Path(one.identity_dir).exists()


def test_after_a_reboot_what_was_had_before_is_given_back(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reboot, releases wait until the Node's boot ID shows that this is the same host."""
    monkeypatch.setattr(release, "STALE_STATUS", float("inf"))
    one = registered(host, cluster, boot="of-before")
    cluster.boots["node1"] = "of-before"
    host.delete(one)
    assert reservation(host, cluster)
    assert release.deliver(str(host.root), 0) == 1
    assert Path(one.identity_dir).exists()
    cluster.boots["node1"] = one.boot_id
    assert release.deliver(str(host.root), 0) == 0
    entry = secret_store_of(cluster).entry(0)
    assert entry
    assert entry.holder is None


def test_an_add_whose_time_is_over_waits_no_longer_for_the_api(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to the API share the time of the ADD, but each gets at least MIN_API_TIMEOUT seconds."""
    waits: list[float] = []

    def run_bounded(_: object, wait: float, *__: object, **___: object) -> bytes:
        waits.append(wait)
        return b'{"host_only": "of the test"}'

    monkeypatch.setattr(linux, "run_bounded", run_bounded)
    settings = {"stateDir": str(host.root), "configFile": os.devnull, "kubeconfig": "/kubeconfig"}
    asked = request.parse(
        environ(ARGS="K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-x;K8S_POD_UID=u"),
        json.dumps(config()).encode(),
    )._replace(warn=lambda _: None)
    for left in (3600.0, 3.0, -1.0):
        with lease.reserved(asked, load_config(settings), LASTING, time.monotonic() + left):
            pass
    assert waits[0] == lease.API_SHARE * 10.0  # of readyTimeout
    assert lease.MIN_API_TIMEOUT < waits[1] <= 3.0
    assert waits[2] == lease.MIN_API_TIMEOUT


def test_what_a_later_version_writes_down_is_read(host: Host) -> None:
    """A release with unknown fields of a newer version is made, and the fields are kept."""
    releases, one = Releases(str(host.root)), Release("k", "/kubeconfig", "default", "web")
    releases.post(one)
    path = host.root / "releases" / "k.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": True}))
    assert list(releases.all()) == [one._replace(unknown='{"later":true}')]
    releases.post(one._replace(delete=True))
    document = json.loads(path.read_text())
    assert (document["later"], document["delete"]) == (True, True)


def test_what_is_to_end_is_not_given_back_by_who_has_read_of_it_before(host: Host, cluster: Cluster) -> None:
    """If an identity is forgotten while another call is about to release it, it is deleted."""
    one = registered(host, cluster)
    host.delete(one)
    before = only(Releases(str(host.root)))
    Releases(str(host.root)).post(before._replace(delete=True))
    assert release.make(str(host.root), before) is release.Outcome.DONE
    assert cluster.secrets == {}


@pytest.mark.parametrize("while_running", [False, True])
def test_a_lost_record_does_not_replace_what_the_cluster_knows(
    host: Host, cluster: Cluster, *, while_running: bool
) -> None:
    """If the disk's record of an identity cannot be read, the cluster keeps the record that it has."""
    one = registered(host, cluster)
    entry = secret_store_of(cluster).entry(0)
    assert entry
    known = Record("https://control.example.com", ("tag:a",), "n1", NODE_KEY, 21641)
    secret_store_of(cluster).save(entry._replace(record=known))
    (host.root / "identities" / f"{one.identity}.json").write_text("{")
    if while_running:
        assert renew._confirm(cluster, one)
    else:
        host.delete(one)
        assert release.make(str(host.root), only(Releases(str(host.root)))) is release.Outcome.DONE
    after = secret_store_of(cluster).entry(0)
    assert after
    assert (after.record, after.files) == (known, {node_files.STATE: STATE})


def test_a_lost_record_does_not_hide_a_process(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process has the user ID that an identity has claimed, the identity is not released, even if its record is lost."""
    one = registered(host, cluster)
    host.delete(one)
    Claims(str(host.root), "uid").take(one.identity, (4711, 4711), "uidBase", lambda _: True)
    (host.root / "identities" / f"{one.identity}.json").write_text("{")
    monkeypatch.setattr(linux, "is_uid_in_use", lambda uid: uid == 4711)
    assert release.make(str(host.root), only(Releases(str(host.root)))) is release.Outcome.LATER
    monkeypatch.setattr(linux, "is_uid_in_use", lambda _: False)
    assert release.make(str(host.root), only(Releases(str(host.root)))) is release.Outcome.DONE
