"""A Kubernetes API with RBAC and without a kubelet: etcd and kube-apiserver. The tests create the Nodes and pods."""

from __future__ import annotations

import json
import os
import signal
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.kit.actor import Actor
from tests.kit.netns import Netns
from tests.kit.process import Daemon, Failed
from tests.kit.runtime import Pod
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from . import programs

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = "system:serviceaccount:kube-system:tailscale-cni"
PATIENCE: Final = 180.0


class Api(Actor):
    """A running API server with manifests/rbac.yaml applied."""

    def __init__(self, wire: Wire, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        with ExitStack() as cleanup:
            self.netns = cleanup.enter_context(Netns("api"))
            self.address = wire.plug(self.netns).v4
            self._write()
            self._etcd = cleanup.enter_context(self._start_etcd())
            self._server = cleanup.enter_context(self._start_server())
            wait_until(self._answers, PATIENCE, what="kube-apiserver's /readyz")
            wait_until(lambda: self._there("namespace", "kube-system"), PATIENCE, what="kube-system")
            self.apply((ROOT / "manifests" / "rbac.yaml").read_text())
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        """Stop etcd and the API server."""
        self._cleanup.close()

    def _write(self) -> None:
        tokens = f"admin-token,admin,admin,system:masters\nplugin-token,{ACCOUNT},plugin\n"
        (self.directory / "tokens.csv").write_text(tokens)
        key = self.netns.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout")
        (self.directory / "accounts.key").write_text(key)
        self._certify()
        for name in ("admin", "plugin"):
            self.kubeconfig(self.directory / f"{name}.conf", name)

    def _certify(self) -> None:
        """Create the API server's certificate, which is also valid for the loopback address, as with k3s."""
        certificate, key = self.directory / "api.crt", self.directory / "api.key"
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        names = ("-subj", "/CN=api", "-addext", f"subjectAltName=IP:{self.address},IP:127.0.0.1")
        self.netns.run("openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", certificate)

    def access(self, user: str = "plugin", server: str = "") -> str:
        """A kubeconfig for USER, as JSON; ``server`` replaces the API's URL, for example with one on the host's loopback address."""
        cluster = {
            "server": server or f"https://{self.address}:6443",
            "certificate-authority-data": b64encode((self.directory / "api.crt").read_bytes()).decode(),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": f"{user}-token"}}],
        }
        return json.dumps(document)

    def kubeconfig(self, path: Path, user: str = "plugin") -> Path:
        """Write a kubeconfig for USER to PATH, and return PATH."""
        path.touch(0o600)
        path.write_text(self.access(user))
        return path

    def _start_etcd(self) -> Daemon:
        etcd = "http://127.0.0.1:2379"
        flags: dict[str, str | Path] = {
            "data-dir": self.directory / "etcd",
            "listen-client-urls": etcd,
            "advertise-client-urls": etcd,
            "log-level": "warn",
            "unsafe-no-fsync": "true",
        }
        return self._daemon(programs.debian() / "usr" / "bin" / "etcd", flags)

    def _start_server(self) -> Daemon:
        flags: dict[str, str | Path] = {
            "etcd-servers": "http://127.0.0.1:2379",
            "advertise-address": self.address,
            "cert-dir": self.directory / "pki",
            "tls-cert-file": self.directory / "api.crt",
            "tls-private-key-file": self.directory / "api.key",
            "anonymous-auth": "false",
            "authorization-mode": "RBAC",
            "disable-admission-plugins": "ServiceAccount",
            "token-auth-file": self.directory / "tokens.csv",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.directory / "accounts.key",
            "service-account-signing-key-file": self.directory / "accounts.key",
            "service-cluster-ip-range": "10.96.0.0/16",
        }
        return self._daemon(programs.kubernetes() / "kube-apiserver", flags)

    def _daemon(self, program: Path, flags: Mapping[str, str | Path]) -> Daemon:
        argv: list[str | Path] = [program, *(f"--{name}={value}" for name, value in flags.items())]
        return self.netns.daemon(argv, self.directory / f"{program.name}.log")

    @contextmanager
    def away(self) -> Iterator[None]:
        """For the length of a block, the API server accepts connections but does not answer."""
        os.kill(self._server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._server.pid, signal.SIGCONT)
            wait_until(self._answers, PATIENCE, what="kube-apiserver's return")

    def _answers(self) -> bool:
        try:
            self.kubectl("get", "--raw=/readyz")
        except Failed:
            return False
        return True

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        """Run kubectl as an admin, and return what it prints. Raises Failed."""
        done = self.netns.attempt(
            programs.kubernetes() / "kubectl",
            f"--kubeconfig={self.directory / 'admin.conf'}",
            f"--cache-dir={self.directory / 'kubectl'}",
            *argv,
            stdin=stdin.encode(),
        )
        if done.returncode != 0:
            raise Failed(done.stderr.decode())
        return done.stdout.decode()

    def apply(self, manifest: str) -> None:
        """Run `kubectl apply` with MANIFEST."""
        self.kubectl("apply", "--filename=-", stdin=manifest)

    def _there(self, kind: str, name: str) -> bool:
        return bool(self.kubectl("get", kind, name, "--ignore-not-found", "--output=name"))

    def add_node(self, name: str) -> None:
        """Create the Node of a host that joins the cluster."""
        self.apply(json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))

    def delete_node(self, name: str) -> None:
        """Delete the Node of a host, as an admin does when the host is gone."""
        self.kubectl("delete", "node", name)

    def taint(self, name: str) -> None:
        """Taint a Node as out of service, as an admin does when nothing runs on the host any more."""
        self.kubectl("taint", "node", name, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")

    def place(self, pod: Pod, node: str) -> Pod:
        """Create POD in the API on that Node, instead of a pod of the same name; return it with the UID from the API."""
        self.forget(pod)
        container = {"name": "app", "image": "localhost/none"}
        spec = {"nodeName": node, "containers": [container], "automountServiceAccountToken": False}
        owner = {"apiVersion": "apps/v1", "controller": True, "uid": str(uuid.uuid4()), **_owner(pod.name)}
        metadata = {"name": pod.name, "namespace": pod.namespace, "ownerReferences": [owner]}
        self.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
        uid = self.kubectl("get", "pod", pod.name, "--output=jsonpath={.metadata.uid}")
        return Pod(pod.name, pod.namespace, pod.annotations, uid)

    def forget(self, pod: Pod) -> None:
        """Delete the pod of that name, if there is one."""
        options = ("--ignore-not-found", "--force", "--grace-period=0", "--wait=true")
        self.kubectl("delete", "pod", pod.name, *options)

    def secrets(self) -> dict[str, Any]:
        """The Secrets of the retained identities, by name."""
        found = json.loads(self.kubectl("get", "secrets", "--namespace=tailscale-cni", "--output=json"))
        return {item["metadata"]["name"]: item for item in found["items"]}


def _owner(pod: str) -> dict[str, str]:
    """The owner of a pod: a StatefulSet if the pod's name ends with a number, a ReplicaSet otherwise."""
    rest, _, last = pod.rpartition("-")
    return {"kind": "StatefulSet" if last.isdecimal() else "ReplicaSet", "name": rest}
