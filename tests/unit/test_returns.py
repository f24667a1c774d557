"""What a host owes the cluster is told it, whatever comes between: no crash and no lost answer lets two have one identity, or loses one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni import errors, kube
from tailscale_cni.cni import request
from tailscale_cni.config import Config
from tailscale_cni.policy import PodIntent
from tailscale_cni.state import identities, vault_files
from tailscale_cni.state.attachments import Attachment
from tailscale_cni.state.host import host_id
from tailscale_cni.state.identities import Identity
from tailscale_cni.state.names import Name
from tailscale_cni.state.releases import Release, Releases
from tailscale_cni.state.vault import Holder, Vault
from tailscale_cni.verbs import custody, returns

from .cni_call import config, environ
from .test_names import Host, kept_in_cluster
from .test_vault import STATE, Cluster

LASTING = PodIntent("web", None, ("tag:a",), ephemeral=False, required=False, stateful=False)
ELSEWHERE = Holder("node2", "uid2", "host2", "boot2", "key2")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with no pod."""
    return Host(tmp_path)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that the host may ask; what is asked in a child changes nothing in it."""
    cluster = Cluster()
    monkeypatch.setattr(returns, "api", lambda _: cluster)
    return cluster


def vault_of(cluster: Cluster) -> Vault:
    """The identities of ``web``."""
    return Vault(cluster, "default", "web")


def registered(host: Host, cluster: Cluster, **more: Any) -> Attachment:
    """A pod whose node is known to the cluster, with its keys."""
    one = kept_in_cluster(host, **more)
    Path(one.identity_dir, vault_files.STATE).write_bytes(STATE)
    holder = Holder("node1", "uid1", host_id(str(host.root)), one.boot_id, one.identity)
    taken = vault_of(cluster).take(holder, one.number, ())
    assert taken
    vault_of(cluster).save(taken.entry._replace(files={vault_files.STATE: STATE}))
    return one


def reservation(host: Host, intent: PodIntent = LASTING) -> custody.Reservation | None:
    """What the next pod of the name finds at hand."""
    settings = {"stateDir": str(host.root), "configFile": os.devnull, "kubeconfig": "/kubeconfig"}
    name = Name(host.store, "default", "web")
    found = custody._at_hand(Config.load(settings), name, intent)
    if found:
        os.close(found.hold)
    return found


def only(releases: Releases) -> Release:
    """The one that there is."""
    (one,) = releases.all()
    return one


def test_a_lost_answer_gives_an_identity_away(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API has done it, and its answer did not come: from then on another host may have it, and no pod here has it unasked."""
    one = registered(host, cluster)
    host.delete(one)
    assert reservation(host)
    change = cluster.change

    def lost(method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        change(method, path, body)
        raise errors.KubernetesFailed(reason="its answer did not come")

    monkeypatch.setattr(cluster, "change", lost)
    assert not returns.give_back(str(host.root), only(Releases(str(host.root))))
    monkeypatch.setattr(cluster, "change", change)
    monkeypatch.setattr(cluster, "get", _away)
    assert reservation(host) is None


def _away(_: str) -> dict[str, Any]:
    raise errors.KubernetesFailed(reason="connection refused")


def test_an_api_that_was_not_reached_leaves_it_at_hand(
    host: Host, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can have come of it: the next pod is the same node, and asks nobody."""
    one = registered(host, cluster)
    host.delete(one)
    monkeypatch.setattr(cluster, "get", _away)
    assert not returns.give_back(str(host.root), only(Releases(str(host.root))))
    found = reservation(host)
    assert found
    assert found.key == one.identity


def test_what_another_host_has_by_now_is_not_at_hand(host: Host, cluster: Cluster) -> None:
    """The Node was deleted while the host was off: its disk has keys that another host runs."""
    one = registered(host, cluster)
    host.delete(one)
    cluster.nodes["node1"] = "uid of a later one"
    assert vault_of(cluster).take(ELSEWHERE, 0, ())
    assert reservation(host) is None
