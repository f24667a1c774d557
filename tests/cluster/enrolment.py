"""Installs tailscale-cni on a cluster of the tests, and finds what it creates there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.kit import tools
from tests.kit.controlplane import ControlPlane
from tests.kit.host import ROOMS
from tests.kit.netns import Netns
from tests.kit.wait import wait_until

from . import programs
from .cluster import CNI_BIN, KUBE, Cluster, Host

PLUGIN: Final = f"{CNI_BIN}/tailscale-cni"
STATE_DIR: Final = "/var/lib/tailscale-cni"
RUN_DIR: Final = "/run/tailscale-cni"
OAUTH: Final = "/etc/tailscale-cni/oauth-client-secret"
CONFIG: Final = "/etc/tailscale-cni/config.yaml"
KUBECONFIG: Final = "/etc/tailscale-cni/kubeconfig"
LOG: Final = "/var/log/tailscale-cni.log"
ROOT: Final = Path(__file__).parents[2]
MARK: Final = "<!-- tests/cluster runs these lines -->\n```sh\n"
STAY: Final = {*(Path(room).name for room in ROOMS), "enroll.json", "host", "install.json", "run"}
"""Files of the state directory that exist without a pod."""


def install(host: Host, control: ControlPlane, oauth_secret: str = "") -> str:
    """Install the artefact with the command of the README, and return its output; OAUTH_SECRET replaces the auth key."""
    option = "oauth-client-secret" if oauth_secret else "auth-key"
    host.machine.write(f"/root/{option}", f"{oauth_secret or control.mint().key}\n", mode=0o600)
    options = [f"--control-url={control.url}", f"--{option}-file=/root/{option}"]
    options += [f"--api-url={control.url}"] if oauth_secret else []
    return host.machine.run("sh", "-c", 'exec "$0" "$@" 2>&1', tools.artefact(), "install", *options)


@contextmanager
def configured(cluster: Host, **settings: Any) -> Iterator[None]:
    """For the length of a block, add these settings to the configuration that `install` wrote."""
    written = (cluster.machine.root / CONFIG.lstrip("/")).read_text()
    cluster.machine.write(CONFIG, yaml.safe_dump(yaml.safe_load(written) | settings))
    try:
        yield
    finally:
        cluster.machine.write(CONFIG, written)


@contextmanager
def oauth(cluster: Cluster, control: ControlPlane, **settings: Any) -> Iterator[None]:
    """For the length of a block, an OAuth client creates the host's auth keys."""
    client = control.new_client(tags=["tag:k8s-cni"])
    cluster.machine.write(OAUTH, f"{client.secret}\n", mode=0o600)
    with configured(cluster, oauthClientSecretFile=OAUTH, apiURL=control.url, **settings):
        yield
    control.revoke_client(client)


def token(cluster: Cluster) -> str:
    """The token of the plugin's service account; empty until it exists."""
    return cluster.kubectl(
        "--namespace=kube-system", "get", "secret", "tailscale-cni", "--output=jsonpath={.data.token}"
    )


def give_access(cluster: Cluster) -> None:
    """Apply manifests/rbac.yaml, run the commands of docs/namespaces.md, and move the kubeconfig to the path that the page names."""
    cluster.kubectl("apply", "--filename=-", stdin=(ROOT / "manifests" / "rbac.yaml").read_text())
    wait_until(lambda: token(cluster), what="the account's token")
    lines = (ROOT / "docs" / "namespaces.md").read_text().split(MARK)[1].split("```")[0]
    admin = (
        f"PATH={programs.kubernetes()}:$PATH KUBECONFIG={KUBE}/admin.conf; export PATH KUBECONFIG; cd /root"
    )
    cluster.machine.run("sh", "-ec", f"{admin}\n{lines}")
    cluster.machine.run("mv", "/root/tailscale-cni.kubeconfig", KUBECONFIG)


def command(cluster: Host, *arguments: str) -> str:
    """Run the installed command, and return what it prints. Raises Failed."""
    return cluster.machine.run(PLUGIN, *arguments)


def logs(cluster: Host, length: int = 4000) -> list[tuple[str, str]]:
    """The ends of the logs that concern pods and nodes: name and text, LENGTH characters each."""
    daemons = [cluster.machine.directory / "log" / name for name in ("containerd", "kubelet")]
    nodes = sorted((cluster.machine.root / RUN_DIR.lstrip("/")).glob("*/log"))
    return [
        (f"{path.parent.name}/{path.name}", path.read_text(errors="replace")[-length:])
        for path in daemons + nodes
    ]


def helpers(cluster: Host) -> set[int]:
    """The process IDs of the supervisors and workers on the host."""
    processes = cluster.machine.processes().items()
    return {pid for pid, line in processes if line.split()[0].endswith(("/supervisor", "/worker"))}


def traces(cluster: Cluster, control: ControlPlane) -> set[str]:
    """A line for everything on the host and the tailnet that a pod can leave behind: compare the lines before and after."""
    machine = cluster.machine
    return {
        *(f"process {pid} {command}" for pid, command in machine.processes().items()),
        *(f"interface {name}" for name in _interfaces(machine.netns)),
        *(f"rule {rule}" for rule in machine.netns.rules()),
        *(f"file {path}" for path in _files(machine.root)),
        *(f"cgroup {path}" for path in machine.cgroups()),
        *(f"tailnet node {node['name']}" for node in control.nodes()),
    }


def traces_after(cluster: Cluster, control: ControlPlane, pod_uid: str) -> set[str]:
    """The traces once kubelet has removed all cgroups of the pod."""
    wait_until(
        lambda: not any(pod_uid in path for path in cluster.machine.cgroups()),
        what="the end of its cgroups",
    )
    return traces(cluster, control)


def _files(root: Path) -> Iterator[Path]:
    """Paths that belong to pods: the plugin's files and directories, and the files of the runtime and the primary CNI."""
    for top in (STATE_DIR, RUN_DIR):
        for directory, directories, files in os.walk(root / top.lstrip("/")):
            here = Path(directory).relative_to(root)
            directories[:] = [name for name in directories if name != "cache"]
            yield from (here / name for name in directories + files if name not in STAY)
    for top in ("/var/lib/cni", "/run/netns"):
        for path in (root / top.lstrip("/")).rglob("*"):
            if path.is_file() and path.name != "lock" and not path.name.startswith("last_reserved_ip"):
                yield path.relative_to(root)


def _interfaces(netns: Netns) -> set[str]:
    """All interfaces except the primary CNI's bridge, which outlives its pods."""
    links = netns.ip("-details", "link")
    return {link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") != "bridge"}
