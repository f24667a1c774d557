"""A real Kubernetes for the tests: etcd, the control plane, a kubelet and a containerd, all on a machine made of namespaces.

The primary CNI is the reference bridge plugin. The tests decide what is chained after it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import builds

from tests.kit import tools
from tests.kit.actor import Actor
from tests.kit.process import Failed
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from . import programs
from .machine import Daemon, Machine

KUBE: Final = "/etc/kubernetes"
SOCKET: Final = "/run/containerd/containerd.sock"
CNI_BIN: Final = "/opt/cni/bin"
CNI_CONF: Final = "/etc/cni/net.d"
STATIC_PODS: Final = f"{KUBE}/manifests"
SERVICES: Final = "10.96.0.0/16"
NODE: Final = "node1"
SECOND: Final = "node2"
PATIENCE: Final = 180.0
"""Seconds to wait for steps that take a few seconds on an idle machine."""

# The API server authenticates every component by a token; RBAC's own rules are written for these user names.
TOKENS: Final = {
    "admin": ("admin", "system:masters"),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kubelet-2": (f"system:node:{SECOND}", "system:nodes"),
    "controller-manager": ("system:kube-controller-manager", "system:masters"),
    "scheduler": ("system:kube-scheduler", "system:masters"),
}

CONTAINERD_2: Final = f"""
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:test"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
"""
CONTAINERD_1: Final = f"""
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
"""


@dataclass(frozen=True)
class Runtime:
    """A containerd: name, configuration, the newest CNI version that it accepts, and the directory of its programs."""

    name: str
    config: str
    cni_version: str
    directory: Path | None = None

    @property
    def asks_status(self) -> bool:
        """Whether it calls STATUS every few seconds: containerd does so from cniVersion 1.1.0 on."""
        return self.cni_version == "1.1.0"

    @property
    def path(self) -> str:
        """The PATH of containerd and of the plugins that it runs."""
        debian = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return f"{self.directory}:{debian}" if self.directory else debian


def containerd_2() -> Runtime:
    """containerd 2.x, from Go modules."""
    return Runtime("containerd-2", CONTAINERD_2, "1.1.0", programs.containerd())


def containerd_1() -> Runtime:
    """Debian's containerd 1.6, which rejects results of cniVersion 1.1.0."""
    return Runtime("containerd-1.6", CONTAINERD_1, "1.0.0")


RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {
    "containerd-2": containerd_2,
    "containerd-1.6": containerd_1,
}


@dataclass(frozen=True)
class Primary:
    """The primary CNI of a cluster: a bridge and a subnet."""

    name: str
    subnet: str
    bridge: str

    @property
    def plugin(self) -> dict[str, Any]:
        """The configuration of the bridge plugin, which assigns the pods' addresses."""
        ipam = {"type": "host-local", "ranges": [[{"subnet": self.subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
        return {"type": "bridge", "bridge": self.bridge, "isGateway": True, "hairpinMode": True, "ipam": ipam}

    def conflist(self, cni_version: str) -> dict[str, Any]:
        """The primary CNI's list, as its installer writes it."""
        return {"cniVersion": cni_version, "name": self.name, "plugins": [self.plugin]}


PRIMARY: Final = Primary("net1", "10.88.0.0/24", "cni0")
PRIMARY_FILE: Final = "10-primary.conflist"


class Host(Actor):
    """A machine with a containerd and a kubelet."""

    def __init__(self, name: str, runtime: Runtime, directory: Path, wire: Wire) -> None:
        """Plug the host into WIRE; files that outlive the host are in DIRECTORY."""
        self.name = name
        self.runtime = runtime
        with ExitStack() as cleanup:
            self.machine = cleanup.enter_context(
                Machine(
                    name,
                    directory,
                    packages=programs.debian(),
                    init=programs.containerd() / "pause",
                    shared=[builds.cache_dir()],
                )
            )
            self.address = wire.plug(self.machine.netns).v4
            self.daemons: dict[str, Daemon] = {}
            self._up()
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        """Stop the host and everything that runs on it."""
        self._cleanup.close()

    def _up(self) -> None:
        """Start everything that the host needs to run pods."""
        raise NotImplementedError

    def _install_plugins(self) -> None:
        self.machine.run("mkdir", "-p", CNI_BIN)
        self.machine.run("cp", "-a", f"{tools.reference_plugins()}/.", CNI_BIN)
        self.machine.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _start(self, name: str, program: str | Path, **flags: str) -> None:
        """Start a daemon; the argument `data_dir="x"` becomes the flag `--data-dir=x`."""
        argv = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        self.daemons[name] = self.machine.start(name, program, *argv)

    def _start_kube(self, name: str, **flags: str) -> None:
        self._start(name, programs.kubernetes() / name, **flags)

    def start_containerd(self) -> None:
        """Start containerd, and wait until its CRI answers."""
        self.machine.write("/etc/containerd/config.toml", self.runtime.config)
        self.daemons["containerd"] = self.machine.start(
            "containerd", "containerd", env={"PATH": self.runtime.path}
        )
        wait_until(lambda: self._succeeds(self._ctr("version")), PATIENCE, what="containerd answering")

    def start_kubelet(self) -> None:
        """Start the kubelet, which continues with the pods that it finds."""
        self.machine.write("/etc/kubernetes/resolv.conf", "nameserver 127.0.0.1\n")
        self.machine.run("mkdir", "-p", STATIC_PODS)
        self.machine.write("/var/lib/kubelet/config.yaml", json.dumps(_kubelet_config()))
        self._start_kube(
            "kubelet",
            config="/var/lib/kubelet/config.yaml",
            kubeconfig=f"{KUBE}/kubelet.conf",
            hostname_override=self.name,
            node_ip=self.address,
        )

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop one daemon; the processes that it started continue."""
        self.daemons.pop(name).stop(how)

    def _import_images(self) -> None:
        for name in ("pause", "busybox"):
            self.machine.run(*self._ctr("images", "import", str(programs.image(name))))

    def _ctr(self, *argv: str) -> tuple[str, ...]:
        ctr = f"{self.runtime.directory}/ctr" if self.runtime.directory else "ctr"
        return (ctr, f"--address={SOCKET}", "--namespace=k8s.io", *argv)

    def _succeeds(self, argv: Sequence[str]) -> bool:
        try:
            self.machine.run(*argv)
        except Failed:
            return False
        return True

    # --- networks ------------------------------------------------------------------------------------------------

    def write_primary(self, primary: Primary, file: str = PRIMARY_FILE) -> None:
        """Write the primary CNI's list to the runtime's directory, as its own installer does."""
        self.machine.write(f"{CNI_CONF}/{file}", json.dumps(primary.conflist(self.runtime.cni_version)))


class Cluster(Host):
    """A cluster of one host, which is Ready and also runs the control plane; others may join."""

    def __init__(self, runtime: Runtime, directory: Path, wire: Wire) -> None:
        super().__init__(NODE, runtime, directory, wire)

    # --- bring-up ------------------------------------------------------------------------------------------------

    def _up(self) -> None:
        self._write_identities()
        self.write_primary(PRIMARY)
        self._install_plugins()
        self.start_containerd()
        self._start_apiserver()
        self._import_images()
        wait_until(self._apiserver_ready, PATIENCE, what="kube-apiserver's /readyz")
        self._start_controllers()
        self.start_kubelet()
        wait_until(self.ready, PATIENCE, what=f"{NODE} being Ready")
        wait_until(
            lambda: self.exists("serviceaccount", "default"), PATIENCE, what="the default ServiceAccount"
        )

    def _write_identities(self) -> None:
        tokens = [f"{name}-token,{user},{name},{group}" for name, (user, group) in TOKENS.items()]
        self.machine.write(f"{KUBE}/tokens.csv", "\n".join(tokens) + "\n", mode=0o600)
        for name in TOKENS:
            self.machine.write(
                f"{KUBE}/{name}.conf", json.dumps(_kubeconfig(self.address, f"{name}-token")), 0o600
            )
        key = self.machine.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout")
        self.machine.write(f"{KUBE}/service-accounts.key", key, mode=0o600)

    def _start_apiserver(self) -> None:
        etcd, key = "http://127.0.0.1:2379", f"{KUBE}/service-accounts.key"
        self._start(
            "etcd",
            "etcd",
            data_dir="/var/lib/etcd/data",
            listen_client_urls=etcd,
            advertise_client_urls=etcd,
            log_level="warn",
            unsafe_no_fsync="true",
        )
        self._start_kube(
            "kube-apiserver",
            etcd_servers=etcd,
            advertise_address=self.address,
            cert_dir=f"{KUBE}/pki",
            anonymous_auth="false",
            authorization_mode="Node,RBAC",
            token_auth_file=f"{KUBE}/tokens.csv",
            service_account_issuer="https://kubernetes.default.svc",
            service_account_key_file=key,
            service_account_signing_key_file=key,
            service_cluster_ip_range=SERVICES,
            kubelet_preferred_address_types="InternalIP",
        )

    def _start_controllers(self) -> None:
        self._start_kube(
            "kube-controller-manager",
            kubeconfig=f"{KUBE}/controller-manager.conf",
            cert_dir=f"{KUBE}/pki/controller-manager",
            bind_address="127.0.0.1",
            leader_elect="false",
            service_account_private_key_file=f"{KUBE}/service-accounts.key",
            root_ca_file=f"{KUBE}/pki/apiserver.crt",
        )
        self._start_kube(
            "kube-scheduler",
            kubeconfig=f"{KUBE}/scheduler.conf",
            cert_dir=f"{KUBE}/pki/scheduler",
            bind_address="127.0.0.1",
            leader_elect="false",
            authentication_tolerate_lookup_failure="true",
        )

    def _apiserver_ready(self) -> bool:
        return self._succeeds((*self._kubectl(), "get", "--raw=/readyz"))

    def ready(self, node: str = NODE) -> bool:
        """Whether the Node is Ready."""
        return self.exists("node", node) and self.condition("node", node, "Ready") == "True"

    # --- kubectl -------------------------------------------------------------------------------------------------

    def _kubectl(self) -> tuple[str, ...]:
        return (str(programs.kubernetes() / "kubectl"), f"--kubeconfig={KUBE}/admin.conf")

    def kubectl(self, *argv: str, stdin: str = "", timeout: float = 180.0) -> str:
        """Run kubectl as an admin, and return what it prints. Raises Failed."""
        return self.machine.run(*self._kubectl(), *argv, stdin=stdin, timeout=timeout)

    def create(self, *manifests: Mapping[str, Any]) -> None:
        """Create these objects in the API."""
        self.kubectl(
            "create",
            "--filename=-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": manifests}),
        )

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object of the API, parsed from JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def exists(self, kind: str, name: str) -> bool:
        """Whether the API has such an object."""
        return bool(self.kubectl("get", kind, name, "--ignore-not-found", "--output=name"))

    def condition(self, kind: str, name: str, condition: str) -> str:
        """The status of an object's condition: True, False, Unknown, or empty."""
        known = self.get(kind, name)["status"].get("conditions", [])
        return next((found["status"] for found in known if found["type"] == condition), "")


class Joined(Host):
    """A second host of a cluster, which is Ready. Both have the same pod subnet, so their pods cannot reach each other."""

    def __init__(self, cluster: Cluster, directory: Path, wire: Wire) -> None:
        self.cluster = cluster
        super().__init__(SECOND, cluster.runtime, directory, wire)

    def _up(self) -> None:
        there = self.cluster.machine.root / KUBE.lstrip("/")
        self.machine.write(f"{KUBE}/pki/apiserver.crt", (there / "pki" / "apiserver.crt").read_text())
        kubeconfig = _kubeconfig(self.cluster.address, "kubelet-2-token")
        self.machine.write(f"{KUBE}/kubelet.conf", json.dumps(kubeconfig), 0o600)
        self.write_primary(PRIMARY)
        self._install_plugins()
        self.start_containerd()
        self._import_images()
        self.start_kubelet()
        wait_until(lambda: self.cluster.ready(self.name), PATIENCE, what=f"{self.name} being Ready")


def _kubeconfig(address: str, token: str) -> dict[str, Any]:
    # When the API server starts, it signs a certificate for the address that it advertises; the file also contains
    # the certificate of the authority.
    server = {"server": f"https://{address}:6443", "certificate-authority": f"{KUBE}/pki/apiserver.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
        "current-context": "tests",
    }


def _kubelet_config() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "50Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "maxOpenFiles": 20000,
        "nodeStatusUpdateFrequency": "5s",
        "oomScoreAdj": 0,
        "resolvConf": f"{KUBE}/resolv.conf",
        "staticPodPath": STATIC_PODS,
        "syncFrequency": "10s",
    }
