"""Annotations of namespaces, which a host reads from the real API server with the access of docs/namespaces.md."""

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
    """Two namespaces, of which only media is annotated, and a host with access to the API as described in docs/namespaces.md."""
    for name in ("media", "plain"):
        cluster.kubectl("create", "namespace", name)
        wait_until(lambda name=name: account(cluster, name), what=f"the account of {name}")  # type: ignore[misc]
    cluster.kubectl("annotate", "namespace", "media", f"{ENABLED}=true")
    give_access(cluster)
    with configured(cluster, kubeconfig=KUBECONFIG, logFile=LOG):
        yield
    cluster.kubectl("delete", "namespace", "media", "plain")


def account(cluster: Cluster, namespace: str) -> str:
    """The default service account of a namespace; empty until it exists."""
    return cluster.kubectl(
        f"--namespace={namespace}", "get", "serviceaccount", "default", "--ignore-not-found", "--output=name"
    )


def test_a_namespace_enrols_its_pods(cluster: Cluster, control: ControlPlane) -> None:
    """A pod without annotations is a node if its namespace is annotated; the pod's own annotation overrides the namespace's."""
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
    """A bare pod whose name ends like that of a Deployment's pod keeps this suffix in its hostname: the API shows that it has no owner."""
    with Pod(cluster, "my-dhcpd", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("my-dhcpd"), what="the node my-dhcpd")


def test_an_annotation_that_came_later_is_heard_of(cluster: Cluster, control: ControlPlane) -> None:
    """If you remove the cached annotations as docs/namespaces.md says, the next pod gets the namespace's new annotation."""
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
    """The namespace's annotation applies to a pod that does not have the annotation itself."""
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
    """An API server that accepts connections but does not answer keeps no pod from starting.

    Pods of kube-system and of an unknown namespace start without a node; pods of a known namespace are enrolled by the cached
    annotations. The log warns that the API did not answer.
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
    """The pod that a log line is about."""
    return next((word[4:] for word in line.split() if word.startswith("pod=")), "")


def known(cluster: Cluster) -> set[str]:
    """The namespaces whose annotations the host has cached."""
    return {path.stem for path in cluster.machine.files(f"{STATE_DIR}/namespaces")}


def make_old(cluster: Cluster, name: str) -> None:
    """Let a namespace's cached annotations expire, so that the host reads them from the API again."""
    path = f"{STATE_DIR}/namespaces/{name}.json"
    document = json.loads((cluster.machine.root / path.lstrip("/")).read_text())
    cluster.machine.write(path, json.dumps(document | {"asked": 0, "until": 0}), mode=0o600)


@contextmanager
def hanging_api(cluster: Cluster) -> Iterator[None]:
    """For the length of a block, the API server is stopped by SIGSTOP."""
    daemon = cluster.daemons["kube-apiserver"]
    pids = (daemon.pid, daemon.entry.pid)  # nsenter stops with its child, but needs its own SIGCONT
    os.kill(pids[0], signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        wait_until(cluster.ready, what="the node being Ready again")


class StaticPods(Actor):
    """Pods that kubelet starts from files, and ends when the files are removed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ports: list[int] = []

    def close(self) -> None:
        """Remove the files, and wait until the pods' web servers have ended."""
        for path in self.cluster.machine.files(STATIC_PODS):
            path.unlink()
        wait_until(lambda: not any(map(self._server, self.ports)), what="the end of the static pods")

    def start(self, name: str, namespace: str, port: int) -> Process:
        """Start a pod with a web server on PORT; return the server's process once it runs."""
        pod = manifest(name, {}, namespace=namespace)
        (container,) = pod["spec"]["containers"]
        container["command"] = ["httpd", "-f", "-p", str(port), "-h", "/www"]
        del container["readinessProbe"]
        self.ports.append(port)
        self.cluster.machine.write(f"{STATIC_PODS}/{name}.yaml", json.dumps(pod))
        return wait_until(lambda: self._server(port), what=f"the static pod {name}")

    def _server(self, port: int) -> Process | None:
        """The web server on that port, in any pod of this cluster."""

        def is_it(process: Process) -> bool:
            command = ["httpd", "-f", "-p", str(port)]
            return process.argv[:4] == command and f"/{self.cluster.machine.netns.name}/" in cgroup(process)

        return next(iter(processes(is_it)), None)
