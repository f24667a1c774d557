"""A host that runs pods, with a runtime (libcni), a primary network (bridge, host-local, portmap) and our plugin.

The plugin installs itself with the paths of a real host: ``/opt/cni/bin``, ``/etc/cni/net.d``,
``/etc/tailscale-cni``, ``/var/lib/tailscale-cni``, ``/run/tailscale-cni``. These directories belong to the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tailscale_cni.state.attachments import identify
from tests.kit import tools
from tests.kit.actor import Actor
from tests.kit.controlplane import ControlPlane
from tests.kit.host import ROOMS
from tests.kit.netns import Netns
from tests.kit.process import CLEAN, Process
from tests.kit.runtime import ANNOTATIONS, CNIError, Pod, Sandbox
from tests.kit.wait import wait_until
from tests.kit.wire import Wire

from .machine import BootedHost

PLUGINS, LISTS = "/opt/cni/bin", "/etc/cni/net.d"
STATE, RUN, CONFIG = "/var/lib/tailscale-cni", "/run/tailscale-cni", "/etc/tailscale-cni"
PRIMARY, OURS = f"{LISTS}/10-pods.conflist", f"{LISTS}/00-tailscale-cni.conflist"
ARTEFACT, KEY = "/root/tailscale-cni", "/root/authkey"
BINARY = f"{PLUGINS}/tailscale-cni"
CLIENT = "/usr/local/bin/cniclient"
NETWORK = "pods"
SLICE = "tailscale_cni.slice"
UNITS = "tailscale?cni*"

PRIMARY_LIST = {
    "cniVersion": "1.1.0",
    "name": NETWORK,
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipMasqBackend": "nftables",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.89.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}},
    ],
}

SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
try:
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"", (sys.argv[1], 9))
    print("sent")
except PermissionError:
    print("refused")
"""


class PodNetns(Netns):
    """A pod's network namespace on a host. The host sees it at ``inside``, the machine at ``path``."""

    def __init__(self, host: BootedHost, label: str) -> None:
        self.name, self._host = f"{host.name}-{label}", host
        host.run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def inside(self) -> str:
        """The namespace's path inside the host, as in CNI_NETNS."""
        return f"/run/netns/{self.name}"

    @property
    def path(self) -> Path:
        """The namespace's path on the machine. It does not exist while the host is off."""
        return Path(f"/proc/{self._host.pid}/root{self.inside}")

    def close(self) -> None:
        """Delete the namespace's name, as a runtime does."""
        if self.path.exists():
            self._host.run("ip", "netns", "delete", self.name)


class PodHost(Actor):
    """A host with a primary network and, after ``install``, our plugin."""

    def __init__(self, host: BootedHost, wire: Wire, control: ControlPlane) -> None:
        self.host, self.wire, self.control = host, wire, control
        self.sandboxes: list[Sandbox] = []
        wire.plug(host.netns)
        for name in tools.REFERENCE_PLUGINS:
            host.put(tools.reference_plugins() / name, f"{PLUGINS}/{name}")
        host.put(tools.clients() / "cniclient", CLIENT)
        host.put(tools.artefact(), ARTEFACT)
        host.write(PRIMARY, json.dumps(PRIMARY_LIST))
        host.write(KEY, control.mint().key, "600")
        self._pristine = set(host.netns.rules())

    def close(self) -> None:
        """Remove the host and everything on it."""
        self.host.close()

    def install(self, *options: str) -> None:
        """Run ``install`` with a static auth key, as in the quick start. Raises Failed."""
        self.host.run(
            ARTEFACT, "install", "--control-url", self.control.url, "--auth-key-file", KEY, *options
        )

    def install_client(self, secret: str) -> None:
        """Run ``install`` with an OAuth client. The secret comes from standard input, so it is in no other file. Raises Failed."""
        urls = ["--control-url", self.control.url, "--api-url", self.control.url]
        self.host.run(ARTEFACT, "install", *urls, "--oauth-client-secret-file", "-", stdin=secret)

    def reboot(self) -> None:
        """Reboot the host and plug it into the wire again."""
        self.host.reboot()
        self.wire.plug(self.host.netns)

    # The runtime

    def sandbox(self, pod: Pod) -> Sandbox:
        """Make a sandbox with a namespace for a pod, without a CNI call."""
        sandbox = Sandbox(pod, PodNetns(self.host, f"{pod.name[:12]}-{len(self.sandboxes)}"))
        self.sandboxes.append(sandbox)
        return sandbox

    def start(self, pod: Pod) -> Sandbox:
        """Make a sandbox and run ADD for it."""
        sandbox = self.sandbox(pod)
        self.call("ADD", sandbox)
        return sandbox

    def call(self, verb: str, sandbox: Sandbox | None = None, **changes: Any) -> Any:
        """Make one libcni call with the first network list, as a runtime does. Returns the result. Raises CNIError."""
        request: dict[str, Any] = {
            "verb": verb,
            "conflist": self.lists()[0],
            "cacheDir": "/var/lib/cni",
            "path": [PLUGINS],
        }
        if sandbox:
            assert isinstance(sandbox.netns, PodNetns)
            request |= {
                "containerID": sandbox.container_id,
                "netns": sandbox.netns.inside,
                "ifname": sandbox.ifname,
            }
            request |= {"args": sandbox.cni_args, "capabilityArgs": sandbox.capability_args}
        answer = json.loads(self.host.run(CLIENT, stdin=json.dumps(request | changes)))
        if "error" in answer:
            raise CNIError(**answer["error"])
        return answer.get("result")

    def add_alone(
        self, sandbox: Sandbox, *, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ADD of our plugin alone, as libcni would. The plugin also inherits the descriptors ``pass_fds``."""
        assert isinstance(sandbox.netns, PodNetns)
        args = ";".join(f"{key}={value}" for key, value in sandbox.cni_args)
        environ = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": sandbox.netns.inside,
            "CNI_IFNAME": "eth0",
        }
        document = {
            "cniVersion": "1.1.0",
            "name": NETWORK,
            "type": "tailscale-cni",
            "prevResult": {"cniVersion": "1.1.0"},
        }
        document["runtimeConfig"] = {ANNOTATIONS: dict(sandbox.pod.annotations)}
        return subprocess.run(
            self.host.within(f"{PLUGINS}/tailscale-cni"),
            input=json.dumps(document).encode(),
            env=CLEAN | environ | {"CNI_ARGS": args, "CNI_PATH": PLUGINS},
            pass_fds=pass_fds,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def lists(self) -> list[str]:
        """The paths of the network lists, in the runtime's order."""
        return sorted(self.host.run("find", LISTS, "-type", "f").split())

    # The product

    def status(self) -> dict[str, dict[str, Any]]:
        """The rows of ``tailscale-cni status``, by pod name."""
        done = self.host.attempt(f"{PLUGINS}/tailscale-cni", "status", "--output=json")
        return {row["pod"]: row for row in json.loads(done.stdout)["items"]}

    def running(self, sandbox: Sandbox) -> dict[str, Any]:
        """Wait until a pod's node is Running with its addresses on ``ts0``, and return its row of ``status``."""

        def find() -> dict[str, Any] | None:
            row = self.status().get(sandbox.pod.name, {})
            there = row.get("state") == "Running" and set(row["addresses"]) <= set(
                sandbox.interface("ts0").addresses
            )
            return row if there else None

        return wait_until(find, what=f"{sandbox.pod.name} on the tailnet")

    def node(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The control plane's node for a row of ``status``, or None if the control plane has no such node."""
        return next((n for n in self.control.nodes() if set(n["addresses"]) == set(row["addresses"])), None)

    def id(self, sandbox: Sandbox) -> str:
        """The short ID of the sandbox's attachment."""
        return identify(NETWORK, sandbox.container_id, sandbox.ifname)

    def is_installed(self) -> bool:
        """Whether the installed plugin is the artefact, after a first line that starts the host's Python."""
        compare = 'tail --bytes=$(stat --format=%s "$1") "$0" | cmp --quiet - "$1" && head --bytes=22 "$0"'
        return self.host.run("sh", "-c", compare, BINARY, ARTEFACT) == "#!/usr/bin/python3 -IS"

    def unit(self, sandbox: Sandbox) -> str:
        """The name of the sandbox's systemd unit."""
        return f"tailscale-cni-{self.id(sandbox)}.service"

    def supervisor(self, sandbox: Sandbox) -> Process:
        """Wait until a pod has a supervisor, and return its process."""
        return wait_until(lambda: self._supervisor(sandbox), what=f"a supervisor of {sandbox.pod.name}")

    def worker(self, sandbox: Sandbox) -> Process:
        """Wait until a pod has a worker, and return its process."""

        def find() -> Process | None:
            supervisor = self._supervisor(sandbox)
            return (
                next((p for p in supervisor.children if p.link("exe").endswith("/worker")), None)
                if supervisor
                else None
            )

        return wait_until(find, what=f"a worker of {sandbox.pod.name}")

    def may_send(self, address: str, group: Path | None = None) -> bool:
        """Whether the kernel lets a process send a packet to ``address``, from the control group ``group`` if given."""
        said = self.host.run("python3", "-c", SEND, address, group=group)
        return {"sent\n": True, "refused\n": False}[said]

    def group(self, sandbox: Sandbox) -> Path:
        """The control group of the sandbox's systemd unit."""
        return next(group for group in self.host.cgroups() if group.name == self.unit(sandbox))

    @contextlib.contextmanager
    def paused(self, process: Process) -> Iterator[None]:
        """Suspend a process for the length of a block."""
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def of_the_product(self) -> list[Process]:
        """All supervisors and workers on this host."""
        return [*self.host.called("supervisor"), *self.host.called("worker")]

    def leftovers(self) -> list[str]:
        """Everything that exists on this host because of a pod. Empty before the first pod and after the last one."""
        rooms = {f"{STATE}/{name}" for name in ROOMS}
        rooms |= {STATE, RUN, f"{STATE}/enroll.json", f"{STATE}/install.json", f"{RUN}/patience"}
        files = {path for path in self.host.tree(STATE, RUN) - rooms if not path.startswith(f"{STATE}/cache")}
        units = (
            self.host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", UNITS)
            if self._has_systemd()
            else ""
        )
        return [
            *(f"process {p.pid}: {' '.join(p.argv)}" for p in self.of_the_product()),
            *(f"file {path}" for path in sorted(files)),
            *(f"interface {name}" for name in sorted(self.host.netns.links() - {"lo", "eth0", "cni0"})),
            *(f"rule {rule}" for rule in sorted(set(self.host.netns.rules()) - self._pristine)),
            *(f"unit {line}" for line in units.splitlines() if line.split()[0] != SLICE),
            *(
                f"control group {path}"
                for path in self.host.cgroups()
                if path.name.startswith("tailscale-cni")
            ),
        ]

    def _supervisor(self, sandbox: Sandbox) -> Process | None:
        wanted = self.id(sandbox)
        return next((p for p in self.host.called("supervisor") if ["--id", wanted] == p.argv[1:3]), None)

    def _has_systemd(self) -> bool:
        return bool(self.host.file("/run/systemd/system").exists)
