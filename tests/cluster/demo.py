"""The demo on a real kubelet: one command installs the plugin, one annotation makes a pod a Tailscale node.

The cluster is a whole Kubernetes in namespaces of this kernel. It leaves nothing behind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.kit import tools
from tests.kit.controlplane import ControlPlane
from tests.kit.demo import show, step
from tests.kit.netns import Netns
from tests.kit.peer import Peer
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from . import programs
from .cluster import Cluster, containerd_2
from .enrolment import command, install, traces
from .pods import ENABLED, Pod


def main() -> int:
    """Run the demo once; return 0 if everything that it claims was true."""
    step("Building the plugin, Kubernetes and containerd (cached: only the first time takes minutes)")
    show(f"{tools.artefact()}\nKubernetes {programs.version('kubernetes')} in {programs.kubernetes()}")
    show(f"containerd {programs.version('containerd')} in {programs.containerd()}")
    programs.debian(), tools.clients(), tools.reference_plugins()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tscni-") as directory:
        Path(directory).chmod(0o711)  # workers do not run as root, but must pass through this directory
        left = play(Path(directory))
    if left:
        print(f"left behind: {', '.join(sorted(left))}", file=sys.stderr)
        return 1
    show(f"All of it in {time.monotonic() - started:.1f} s.")
    return 0


def play(root: Path) -> set[str]:
    """Run the demo in ROOT, and return what it left behind."""
    with Wire() as wire:
        step("A control plane, as Tailscale or Headscale would be, and somebody's laptop on the tailnet")
        with ControlPlane(wire, root / "control") as control, Netns("peer") as elsewhere:
            wire.plug(elsewhere)
            with Peer(control, elsewhere, root / "peer", "laptop") as laptop:
                show(f"{control.url}, MagicDNS domain {control.domain}\nlaptop {' '.join(laptop.addresses)}")
                step(
                    "A Kubernetes cluster: etcd, the control plane, containerd, a kubelet, bridge as its primary CNI"
                )
                with Cluster(containerd_2(), root / "cluster", wire) as cluster:
                    show(cluster.kubectl("get", "nodes", "--output=wide"))
                    return enrol(cluster, control, laptop)


def enrol(cluster: Cluster, control: ControlPlane, laptop: Peer) -> set[str]:
    """Install the plugin, create a pod, fetch its page, and delete it; return what it left behind."""
    step(f"tailscale-cni install --control-url={control.url} --auth-key-file=/root/authkey")
    show(install(cluster, control))
    before = traces(cluster, control)
    step(f'kubectl create: pod plex, annotated {ENABLED}: "true"')
    with Pod(cluster, "plex", {ENABLED: "true"}) as pod:
        pod.ready()
        wait_until(lambda: control.node("plex"), what="the node plex")
        show(cluster.kubectl("get", "pods", "--output=wide"))
        step("kubectl exec plex -- ip -o addr")
        show(pod.exec("ip", "-o", "addr"))
        step("tailscale-cni status")
        show(command(cluster, "status"))
        step("The laptop opens http://plex/")
        show(laptop.fetch("http://plex/"))
        step("kubectl delete pod plex")
    wait_until(lambda: traces(cluster, control) - before == set(), what="the pod's end")
    show("No process, no interface, no file, no control group, and no node in the tailnet is left.")
    return traces(cluster, control) - before


if __name__ == "__main__":
    sys.exit(main())
