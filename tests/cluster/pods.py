"""Pods of the cluster suite, as kubectl and the kernel see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.kit.actor import Actor
from tests.kit.netns import Netns
from tests.kit.process import Process, processes
from tests.kit.wait import wait_until

from .cluster import Cluster

if TYPE_CHECKING:
    from typing_extensions import Self

ENABLED: Final = "tailscale.com/enabled"
# The pod serves a page on port 80, also for the readiness probe, and echoes what it receives on port 7. It ends on SIGTERM,
# so that kubelet need not kill it two seconds later.
SERVE: Final = """
echo "hello from $(hostname)" >/www/index.html
nc -ll -p 7 -e cat &
httpd -f -p 80 -h /www &
trap exit TERM
wait
"""


def manifest(name: str, annotations: Mapping[str, str], *, namespace: str = "default") -> dict[str, Any]:
    """The manifest of a pod with a small web server, which is Ready when kubelet's HTTP probe reaches it."""
    container = {
        "name": "app",
        "image": "localhost/busybox:test",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", SERVE],
        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": dict(annotations)},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
        },
    }


def deployment(name: str, replicas: int, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a Deployment with REPLICAS such pods."""
    labels = {"app": name}
    metadata = {"labels": labels, "annotations": dict(annotations)}
    template = {"metadata": metadata, "spec": manifest(name, annotations)["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


class ProcessNetns(Netns):
    """The network namespace of a process, which this object does not own."""

    def __init__(self, process: Process) -> None:
        self.name = f"of process {process.pid}"
        self.process = process

    @property
    def path(self) -> Path:
        """The namespace as a file that can be entered."""
        return Path(f"/proc/{self.process.pid}/ns/net")

    def close(self) -> None:
        """Do nothing, because the namespace belongs to the process."""


class SomePod:
    """A pod of a cluster that exists already."""

    def __init__(self, cluster: Cluster, name: str, *, namespace: str = "default") -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self.uid: str = self.get()["metadata"]["uid"]

    def annotate(self, **annotations: str | None) -> None:
        """Run `kubectl annotate`, with short names of the plugin's annotations; None removes an annotation."""
        words = [
            f"tailscale.com/{name}-" if value is None else f"tailscale.com/{name}={value}"
            for name, value in annotations.items()
        ]
        self._kubectl("annotate", "--overwrite", "pod", self.name, *words)

    def delete(self, *options: str) -> None:
        """Run `kubectl delete pod`. Raises Failed."""
        self._kubectl("delete", "pod", self.name, *options)

    def gone(self, deadline: float = 120.0) -> None:
        """Wait until the API no longer has the pod. Raises Failed."""
        self._kubectl("wait", "--for=delete", f"pod/{self.name}", f"--timeout={deadline:g}s")

    def _kubectl(self, *argv: str) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *argv)

    def get(self) -> dict[str, Any]:
        """The pod's object in the API."""
        found: dict[str, Any] = json.loads(self._kubectl("get", "pod", self.name, "--output=json"))
        return found

    def ready(self, deadline: float = 120.0) -> Self:
        """Wait until the pod is Ready, and return it."""
        try:
            self._kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", f"--timeout={deadline:g}s")
        except Exception as error:
            raise AssertionError(f"{error}\n{self.get()['status']}\n{self.events()}") from error
        return self

    @property
    def address(self) -> str:
        """The pod's address, as Kubernetes reports it."""
        address: str = self.get()["status"]["podIP"]
        return address

    def exec(self, *argv: str) -> str:
        """Run a command in the pod's container, and return what it prints. Raises Failed."""
        return self._kubectl("exec", self.name, "--", *argv)

    def events(self, reason: str = "") -> list[str]:
        """The messages of the pod's events, only those with REASON if it is given."""
        selector = f"involvedObject.uid={self.uid}" + (f",reason={reason}" if reason else "")
        found = json.loads(self._kubectl("get", "events", f"--field-selector={selector}", "--output=json"))
        return [event["message"] for event in found["items"]]

    def processes(self) -> list[Process]:
        """All processes of the pod's containers: those whose cgroup has the pod's UID in its path."""
        return processes(lambda process: f"/pod{self.uid}/" in cgroup(process))

    @property
    def pause(self) -> Process:
        """The process that holds the pod's namespaces, once it exists."""
        found = wait_until(
            lambda: [p for p in self.processes() if p.argv[:1] == ["/pause"]], what=f"{self.name}'s sandbox"
        )
        return found[0]

    @property
    def netns(self) -> ProcessNetns:
        """The pod's current network namespace."""
        return ProcessNetns(self.pause)

    def interface(self, name: str) -> Any:
        """testinfra's interface with that name, in the pod."""
        return self.netns.interface(name)


class Pod(SomePod, Actor):
    """A new pod of a cluster, which is deleted at the end of the block."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        annotations: Mapping[str, str] = {},
        *,
        namespace: str = "default",
    ) -> None:
        cluster.create(manifest(name, annotations, namespace=namespace))
        super().__init__(cluster, name, namespace=namespace)

    def close(self) -> None:
        """Delete the pod, unless it is gone already, and wait until kubelet has ended it."""
        self.delete("--ignore-not-found")


class Deployment(Actor):
    """A Deployment whose pods are Ready. It is deleted with its pods at the end of the block."""

    def __init__(self, cluster: Cluster, name: str, replicas: int, annotations: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.name = name
        cluster.create(deployment(name, replicas, annotations))
        self.rolled_out()

    def rolled_out(self) -> None:
        """Wait until all pods are of the current template and Ready."""
        self.cluster.kubectl("rollout", "status", f"deployment/{self.name}", "--timeout=120s")

    def annotate(self, **annotations: str | None) -> None:
        """Change the annotations of the template, with short names of the plugin's annotations; None removes an annotation."""
        metadata = {"annotations": {f"tailscale.com/{name}": value for name, value in annotations.items()}}
        patch = {"spec": {"template": {"metadata": metadata}}}
        self.cluster.kubectl("patch", "deployment", self.name, "--type=merge", f"--patch={json.dumps(patch)}")

    @property
    def pods(self) -> list[SomePod]:
        """The pods that are not being deleted."""
        found = self.cluster.kubectl("get", "pods", f"--selector=app={self.name}", "--output=json")
        return [
            SomePod(self.cluster, pod["metadata"]["name"])
            for pod in json.loads(found)["items"]
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def close(self) -> None:
        """Delete the Deployment, and wait until its pods are gone."""
        self.cluster.kubectl("delete", "deployment", self.name)
        self.cluster.kubectl("wait", "--for=delete", "pod", f"--selector=app={self.name}", "--timeout=120s")


def cgroup(process: Process) -> str:
    """The contents of `/proc/PID/cgroup`; empty if the process is gone."""
    try:
        return Path(f"/proc/{process.pid}/cgroup").read_text()
    except OSError:
        return ""
