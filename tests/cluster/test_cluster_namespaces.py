"""Annotations of namespaces, asked of the real API server with what docs/namespaces.md gives a host."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit.actor import Actor
from tests.kit.controlplane import ControlPlane
from tests.kit.process import Process, processes
from tests.kit.wait import wait_until

from .cluster import STATIC_PODS, Cluster
from .enrolment import KUBECONFIG, LOG, STATE_DIR, configured, give_access
from .pods import ENABLED, Pod, ProcessNetns, cgroup, manifest


@pytest.fixture(scope="module", autouse=True)
def namespaces(cluster: Cluster) -> Iterator[None]:
    """Two namespaces, of which media is annotated, and a host that may ask, as the page says it."""
    for name in ("media", "plain"):
        cluster.kubectl("create", "namespace", name)
        wait_until(lambda name=name: account(cluster, name), what=f"the account of {name}")  # type: ignore[misc]
    cluster.kubectl("annotate", "namespace", "media", f"{ENABLED}=true")
    give_access(cluster)
    with configured(cluster, kubeconfig=KUBECONFIG, logFile=LOG):
        yield
    cluster.kubectl("delete", "namespace", "media", "plain")


def account(cluster: Cluster, namespace: str) -> str:
    """The account that its pods run by, once it is there."""
    return cluster.kubectl(
        f"--namespace={namespace}", "get", "serviceaccount", "default", "--ignore-not-found", "--output=name"
    )


def test_a_namespace_enrols_its_pods(cluster: Cluster, control: ControlPlane) -> None:
    """A pod that says nothing is a node in a namespace that says so, and not in another one; a pod has the last word."""
    with (
        Pod(cluster, "film", namespace="media") as film,
        Pod(cluster, "shy", {ENABLED: "false"}, namespace="media") as shy,
        Pod(cluster, "other", namespace="plain") as other,
    ):
        film.ready()
        wait_until(lambda: control.node("film"), what="the node film")
        assert film.interface("ts0").exists
        for pod in (shy, other):
            pod.ready()
            assert pod.netns.links() == {"lo", "eth0"}
    assert known(cluster) >= {"media", "plain"}
    wait_until(lambda: not control.node("film"), what="the end of the node film")


def test_a_node_is_called_after_its_owner(cluster: Cluster, control: ControlPlane) -> None:
    """A bare pod whose name looks like a workload's with five random characters keeps them: the API knows that nobody made it."""
    with Pod(cluster, "my-dhcpd", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("my-dhcpd"), what="the node my-dhcpd")


def test_an_annotation_that_came_later_is_heard_of(cluster: Cluster, control: ControlPlane) -> None:
    """What a namespace says is asked for again: the page's line has the next pod wait for it."""
    with Pod(cluster, "early", namespace="plain") as pod:
        pod.ready()
        assert not pod.interface("ts0").exists
    cluster.kubectl("annotate", "namespace", "plain", f"{ENABLED}=true")
    try:
        cluster.machine.run("rm", f"{STATE_DIR}/namespaces/plain.json")
        with Pod(cluster, "late", namespace="plain") as pod:
            pod.ready()
            wait_until(lambda: control.node("late"), what="the node late")
    finally:
        cluster.kubectl("annotate", "namespace", "plain", f"{ENABLED}-")
        cluster.machine.run("rm", "-f", f"{STATE_DIR}/namespaces/plain.json")


def test_a_pod_overrides_its_namespace(cluster: Cluster, control: ControlPlane) -> None:
    """What a namespace says holds for each annotation that a pod does not have."""
    hostname = "tailscale.com/hostname"
    cluster.kubectl("annotate", "namespace", "media", f"{hostname}=by-namespace")
    cluster.machine.run("rm", "-f", f"{STATE_DIR}/namespaces/media.json")
    try:
        with (
            Pod(cluster, "silent", namespace="media") as silent,
            Pod(cluster, "speaks", {hostname: "by-pod"}, namespace="media") as speaks,
        ):
            for pod, name in ((silent, "by-namespace"), (speaks, "by-pod")):
                pod.ready()
                node = wait_until(lambda name=name: control.node(name), what=f"the node {name}")  # type: ignore[misc]
                assert set(node["addresses"]) <= set(pod.interface("ts0").addresses)
    finally:
        cluster.kubectl("annotate", "namespace", "media", f"{hostname}-")
        cluster.machine.run("rm", "-f", f"{STATE_DIR}/namespaces/media.json")


def test_pods_start_while_the_api_hangs(cluster: Cluster, control: ControlPlane) -> None:
    """An API server that takes connections and answers none keeps no pod from starting.

    Not the system's, nor those of a namespace that nobody has seen; those of one that is known are nodes by what was known.
    The log says that nobody answered.
    """
    with Pod(cluster, "first", namespace="media") as pod:
        pod.ready()
    for name in known(cluster):
        make_old(cluster, name)
    with hanging_api(cluster), StaticPods(cluster) as pods:
        system = pods.start("system", "kube-system", 8101)
        unseen = pods.start("unseen", "nowhere", 8102)
        cached = pods.start("cached", "media", 8103)
        assert ProcessNetns(system).links() == {"lo", "eth0"}
        assert ProcessNetns(unseen).links() == {"lo", "eth0"}
        assert ProcessNetns(cached).links() == {"lo", "eth0", "ts0"}
        wait_until(lambda: control.node("cached"), what="the node cached")
        log = (cluster.machine.root / LOG.lstrip("/")).read_text().splitlines()
        warned = {pod_of(line) for line in log if 'warning="' in line}
        assert "nowhere/unseen-node1" in warned
        assert not any(name.startswith("kube-system/") for name in warned)
    wait_until(lambda: not control.node("cached"), what="the end of the node cached")


def pod_of(line: str) -> str:
    """Of a log line."""
    return next((word[4:] for word in line.split() if word.startswith("pod=")), "")


def known(cluster: Cluster) -> set[str]:
    """The namespaces that the host has seen."""
    return {path.stem for path in cluster.machine.files(f"{STATE_DIR}/namespaces")}


def make_old(cluster: Cluster, name: str) -> None:
    """Ten seconds and more ago."""
    path = f"{STATE_DIR}/namespaces/{name}.json"
    document = json.loads((cluster.machine.root / path.lstrip("/")).read_text())
    cluster.machine.write(path, json.dumps(document | {"asked": 0, "until": 0}), mode=0o600)


@contextmanager
def hanging_api(cluster: Cluster) -> Iterator[None]:
    """The API server is stopped in the middle of whatever it does, for the length of a block."""
    daemon = cluster.daemons["kube-apiserver"]
    pids = (daemon.pid, daemon.entry.pid)  # nsenter stops with its child, and goes on by itself
    os.kill(pids[0], signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        wait_until(cluster.ready, what="the node being Ready again")


class StaticPods(Actor):
    """Pods that kubelet starts by itself, and ends when their files go."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ports: list[int] = []

    def close(self) -> None:
        """Returns when their servers are gone."""
        for path in self.cluster.machine.files(STATIC_PODS):
            path.unlink()
        wait_until(lambda: not any(map(self._server, self.ports)), what="the end of the static pods")

    def start(self, name: str, namespace: str, port: int) -> Process:
        """One with a web server on that port, waited for; the server."""
        pod = manifest(name, {}, namespace=namespace)
        (container,) = pod["spec"]["containers"]
        container["command"] = ["httpd", "-f", "-p", str(port), "-h", "/www"]
        del container["readinessProbe"]
        self.ports.append(port)
        self.cluster.machine.write(f"{STATIC_PODS}/{name}.yaml", json.dumps(pod))
        return wait_until(lambda: self._server(port), what=f"the static pod {name}")

    def _server(self, port: int) -> Process | None:
        """The web server of that port, in whichever pod of this cluster."""

        def is_it(process: Process) -> bool:
            command = ["httpd", "-f", "-p", str(port)]
            return process.argv[:4] == command and f"/{self.cluster.machine.netns.name}/" in cgroup(process)

        return next(iter(processes(is_it)), None)
