"""Nodes that move with their pods from host to host, on a real cluster with two hosts."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.peer import Peer
from tests.kit.process import Failed
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from .cluster import NODE, SECOND, Cluster, Host, Joined, containerd_2
from .enrolment import KUBECONFIG, LOG, configured, give_access, helpers, install, logs
from .pods import ENABLED, deployment

Record = Callable[[str, object], None]
LASTING: Final = {ENABLED: "true", "tailscale.com/ephemeral": "false"}


class Hosts(NamedTuple):
    """Both hosts of a cluster. The second one can be cut off, because the control plane runs on the first."""

    first: Cluster
    second: Joined

    def warnings(self) -> str:
        """The logs of the plugin and the nodes on both hosts, for the report of a failed test."""
        return "\n".join(
            f"== {host.name} {name}\n{text}" for host in self for name, text in logs(host)
        ) + self.log(self.first)

    def log(self, host: Host) -> str:
        """The plugin's log on a host: a line per call."""
        path = host.machine.root / LOG.lstrip("/")
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def hosts(wire: Wire, control: ControlPlane, directory: Path) -> Iterator[Hosts]:
    """Two hosts with the plugin, an OAuth client, and access to the cluster's API as described in docs/namespaces.md."""
    with (
        Cluster(containerd_2(), directory / "two-first", wire) as first,
        Joined(first, directory / "two-second", wire) as second,
    ):
        for host in (first, second):
            install(host, control, control.new_client(tags=["tag:k8s-cni"]).secret)
        give_access(first)
        kubeconfig = (first.machine.root / KUBECONFIG.lstrip("/")).read_text()
        second.machine.write(KUBECONFIG, kubeconfig, mode=0o600)
        access = {"kubeconfig": KUBECONFIG, "logFile": LOG}
        with configured(first, **access), configured(second, **access):
            yield Hosts(first, second)


def stateful_set(name: str) -> dict[str, Any]:
    """The manifest of a StatefulSet with one pod, whose node is not ephemeral."""
    template = deployment(name, 1, {ENABLED: "true"})
    return {**template, "kind": "StatefulSet", "spec": {**template["spec"], "serviceName": name}}


def spread(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a Deployment with one pod, whose next pod is always placed on the other host."""
    made = deployment(name, 1, annotations)
    term = {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": "kubernetes.io/hostname"}
    made["spec"]["template"]["spec"]["affinity"] = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    }
    return made


@contextmanager
def only_on(cluster: Cluster, node: str) -> Iterator[None]:
    """For the length of a block, new pods are placed on NODE."""
    other = SECOND if node == NODE else NODE
    cluster.kubectl("cordon", other)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", other)


@contextmanager
def workload(cluster: Cluster, made: Mapping[str, Any]) -> Iterator[str]:
    """Create a workload, wait until its pods are Ready, and delete it at the end of the block. Yields its name."""
    kind, name = made["kind"].lower(), made["metadata"]["name"]
    cluster.create(made)
    try:
        cluster.kubectl("rollout", "status", f"{kind}/{name}", "--timeout=120s")
        yield name
    finally:
        cluster.kubectl("delete", kind, name)
        cluster.kubectl("wait", "--for=delete", "pod", f"--selector=app={name}", "--timeout=120s")


def addresses(control: ControlPlane, name: str) -> list[str]:
    """The addresses of a node, once it is online."""
    node = wait_until(
        lambda: (found := control.node(name)) and found["online"] and found, what=f"the node {name}"
    )
    return list(node["addresses"])


def names(control: ControlPlane, prefix: str) -> list[str]:
    """The sorted names of the nodes that begin with PREFIX."""
    return sorted(node["name"] for node in control.nodes() if node["name"].startswith(prefix))


def secret(cluster: Cluster, name: str) -> dict[str, Any]:
    """The record of an identity in the cluster; empty while the cluster does not have the identity's keys."""
    found = cluster.kubectl(
        "--namespace=tailscale-cni", "get", "secret", name, "--ignore-not-found", "--output=json"
    )
    data = json.loads(found or "{}").get("data", {})
    known: dict[str, Any] = (
        json.loads(base64.b64decode(data["record.json"])) if "tailscaled.state" in data else {}
    )
    return known


def holder(cluster: Cluster, name: str) -> str:
    """The Node that holds an identity; empty if none does."""
    return str((secret(cluster, name).get("holder") or {}).get("node", ""))


def is_held_elsewhere(cluster: Cluster, name: str, node: str) -> bool:
    """Whether another Node than NODE holds an identity."""
    return holder(cluster, name) not in ("", node)


def node_of(cluster: Cluster, pod: str) -> str:
    """The Node on which a pod is Ready; empty if the pod is not Ready."""
    found = json.loads(cluster.kubectl("get", "pod", pod, "--ignore-not-found", "--output=json") or "{}")
    conditions = found.get("status", {}).get("conditions", [])
    ready = any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)
    return (
        str(found["spec"].get("nodeName", ""))
        if ready and "deletionTimestamp" not in found["metadata"]
        else ""
    )


def answers(peer: Peer, address: str) -> bool:
    """Whether the peer reaches an address."""
    try:
        return bool(peer.ping(address))
    except Failed:
        return False


def test_a_drained_pod_is_the_same_node_on_the_other_host(
    hosts: Hosts, control: ControlPlane, peer: Peer, record_property: Record
) -> None:
    """After `kubectl drain`, the StatefulSet's pod has the same hostname and tailnet addresses on the other host."""
    cluster = hosts.first
    with only_on(cluster, SECOND):
        cluster.create(stateful_set("postgres"))
        wait_until(lambda: node_of(cluster, "postgres-0") == SECOND, what="postgres-0 on the second host")
    before = addresses(control, "postgres-0")
    wait_until(lambda: holder(cluster, "default.postgres-0.0") == SECOND, what="the keys in the cluster")
    try:
        cluster.kubectl("drain", SECOND, "--ignore-daemonsets", "--force", "--delete-emptydir-data")
        began = time.monotonic()
        wait_until(lambda: node_of(cluster, "postgres-0") == NODE, what="postgres-0 on the first host")
        wait_until(lambda: answers(peer, before[0]), what="an answer from where it was")
        record_property("seconds from the eviction to an answer", round(time.monotonic() - began, 1))
        assert addresses(control, "postgres-0") == before
        assert names(control, "postgres") == ["postgres-0"]
        assert holder(cluster, "default.postgres-0.0") == NODE
        assert not list((hosts.second.machine.root / "var/lib/tailscale-cni/identities").iterdir())
    finally:
        cluster.kubectl("uncordon", SECOND)
        cluster.kubectl("delete", "statefulset", "postgres")
        cluster.kubectl("wait", "--for=delete", "pod/postgres-0", "--timeout=120s")


def test_ten_rollouts_between_two_hosts_keep_names_and_addresses(
    hosts: Hosts, control: ControlPlane, record_property: Record
) -> None:
    """After each of ten rollouts to the other host, the new pod's node, plex-1 for a moment, is plex, and no second node is left.

    A node that is not ephemeral keeps its addresses, too; an ephemeral one keeps only its name.
    """
    cluster = hosts.first
    with (
        workload(cluster, spread("plex", LASTING)) as name,
        workload(cluster, spread("radio", {ENABLED: "true"})) as fleeting,
    ):
        first = addresses(control, name)
        for _ in range(10):
            before, node = holder(cluster, "default.plex.0"), control.node(fleeting)
            for deployed in (name, fleeting):
                cluster.kubectl("rollout", "restart", f"deployment/{deployed}")
            for deployed in (name, fleeting):
                cluster.kubectl("rollout", "status", f"deployment/{deployed}", "--timeout=120s")
            began = time.monotonic()
            wait_until(partial(is_held_elsewhere, cluster, "default.plex.0", before), what="the next holder")
            wait_until(lambda: names(control, "plex") == ["plex"], what="the end of plex-1")
            wait_until(lambda: names(control, "radio") == ["radio"], what="the end of radio-1")
            record_property("seconds from the rollouts' end to the names", round(time.monotonic() - began, 1))
            assert addresses(control, name) == first
            now = control.node(fleeting)
            assert node
            assert now
            assert now["id"] != node["id"]


def test_a_host_that_is_cut_off_keeps_its_identities(hosts: Hosts, control: ControlPlane) -> None:
    """A host that is cut off keeps its identities, and its pod is a new node elsewhere; once the Node is deleted, the identity moves.

    When the host is back, it ends the nodes that it ran.
    """
    cluster, second = hosts
    with only_on(cluster, SECOND):
        cluster.create(stateful_set("mysql"))
        wait_until(lambda: node_of(cluster, "mysql-0") == SECOND, what="mysql-0 on the second host")
    before = addresses(control, "mysql-0")
    wait_until(lambda: holder(cluster, "default.mysql-0.0") == SECOND, what="the keys in the cluster")
    second.machine.netns.run("ip", "route", "add", "prohibit", cluster.address)
    try:
        wait_until(lambda: not cluster.ready(SECOND), what="a Node that is not Ready")
        cluster.kubectl("delete", "pod", "mysql-0", "--force", "--grace-period=0")
        wait_until(lambda: node_of(cluster, "mysql-0") == NODE, what="mysql-0 on the first host")
        assert set(addresses(control, "mysql-0-1")).isdisjoint(before)
        assert addresses(control, "mysql-0") == before
        assert (
            f"host {SECOND} has the identity tailscale-cni/default.mysql-0.0 and is not Ready"
            in hosts.log(cluster)
        )
        assert holder(cluster, "default.mysql-0.0") == SECOND
        cluster.kubectl("delete", "node", SECOND)
        wait_until(
            lambda: holder(cluster, "default.mysql-0.0") == NODE, what="the identity on the first host"
        )
        wait_until(lambda: names(control, "mysql") == ["mysql-0"], what="the end of mysql-0-1")
        assert addresses(control, "mysql-0") == before
    finally:
        second.machine.netns.run("ip", "route", "del", "prohibit", cluster.address)
    second.stop("kubelet")
    second.start_kubelet()
    wait_until(lambda: not helpers(second), 180, what="the end of what the second host ran")
    wait_until(lambda: cluster.ready(SECOND), what="the second host's return")
    assert holder(cluster, "default.mysql-0.0") == NODE
    assert addresses(control, "mysql-0") == before
    cluster.kubectl("delete", "statefulset", "mysql")
