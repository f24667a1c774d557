"""A host: a network namespace with a container runtime, an auth key, and its own directories for the product."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailscale_cni.state.attachments import identify

from .actor import Actor
from .controlplane import ControlPlane
from .netns import Netns
from .process import Process, processes
from .runtime import Pod, Runtime, Sandbox
from .unixhttp import UnixConnection
from .wait import wait_until
from .wire import Wire

CGROUPS = Path("/sys/fs/cgroup")
SUBNET, SUBNET6 = "10.88.0.0/24", "fd88::/64"

ROOMS = ("attachments", "identities", "names", "outbox", "releases", "claims", "claims/uid", "claims/port")
"""The directories of a state directory that remain after the last pod has ended."""


class Host(Actor):
    """A machine that runs pods.

    ``config`` is added to the plugin's entry in the network list. The product keeps everything below ``root``; ``leftovers`` lists what
    it has left there, in the host's namespace and in the process table.
    """

    def __init__(self, wire: Wire, control: ControlPlane, root: Path, **config: Any) -> None:
        root.mkdir(parents=True)
        self.control, self.root = control, root
        self.netns = Netns("host")
        # With DAD a bridge's address would be tentative for a second, and the host would send from another address.
        self.netns.run(
            "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"
        )
        self.plug = wire.plug(self.netns)
        self.state_dir, self.run_dir = root / "state", root / "run"
        self.key_file = root / "authkey"
        self.set_key(control.mint().key)
        self.config: dict[str, Any] = {
            "stateDir": str(self.state_dir),
            "runDir": str(self.run_dir),
            "configFile": str(root / "config.yaml"),
            "controlURL": control.url,
            "authKeyFile": str(self.key_file),
            "launcher": "session",  # the tests of units, tests/hosts, have a machine with its own systemd
            **config,
        }
        self.runtime = Runtime(self.netns, root / "runtime", self.config, subnet=SUBNET, subnet6=SUBNET6)
        self.sandboxes: list[Sandbox] = []
        self._pristine = set(self.netns.rules())
        self._strangers = {node["id"] for node in control.nodes()}

    def close(self) -> None:
        """Kill what still runs, and remove everything that belongs to this host."""
        for sandbox in self.sandboxes:
            sandbox.netns.close()
        while left := self.processes():
            for process in left:
                process.kill()
        for group in self._cgroups():
            with contextlib.suppress(OSError):
                group.rmdir()
        for node in self.control.nodes():
            if node["id"] not in self._strangers and "tag:k8s-pod" in node["tags"]:
                self.control.delete_node(node["id"], runs=False)
        self.netns.close()
        shutil.rmtree(self.root)

    def set_key(self, key: str) -> None:
        """Write the static auth key of this host."""
        self.key_file.touch(0o600)
        self.key_file.write_text(key)

    def configure(self, **config: Any) -> None:
        """Change the plugin's entry in the network list; None removes a key."""
        merged = {**self.config, **config}
        self.config = {key: value for key, value in merged.items() if value is not None}
        self.runtime.config = self.config

    def sandbox(self, pod: Pod, *, container_id: str | None = None) -> Sandbox:
        """Make a namespace for a pod, and call nothing."""
        netns = Netns(pod.name[:16])
        sandbox = Sandbox(pod, netns, container_id) if container_id else Sandbox(pod, netns)
        self.sandboxes.append(sandbox)
        return sandbox

    def adopt(self, sandbox: Sandbox, pod: Pod) -> Sandbox:
        """The container and namespace of a sandbox, for another pod."""
        return replace(sandbox, pod=pod)

    def start(self, pod: Pod) -> Sandbox:
        """Make a sandbox and call ADD."""
        sandbox = self.sandbox(pod)
        self.runtime.add(sandbox)
        return sandbox

    def id(self, sandbox: Sandbox) -> str:
        """The attachment's short name."""
        return identify(self.runtime.network, sandbox.container_id, sandbox.ifname)

    def supervisor(self, sandbox: Sandbox) -> Process:
        """Return the supervisor of a pod's worker. Raises OSError if there is none."""
        pid = int((self.run_dir / self.id(sandbox) / "supervisor").read_text().split()[0])
        process = Process.of(pid)
        if not process:
            raise ProcessLookupError(f"process {pid} has ended")
        return process

    def worker(self, sandbox: Sandbox) -> Process:
        """Wait for a pod's worker, and return it."""

        def find() -> Process | None:
            children = self.supervisor(sandbox).children if self._supervised(sandbox) else []
            return next((p for p in children if p.link("exe").endswith("/worker")), None)

        return wait_until(find, what=f"a worker of {sandbox.pod.name}")

    def private_memory(self, sandbox: Sandbox) -> int:
        """Count the bytes that a pod's supervisor and worker do not share, given that another pod runs the same programs."""
        return self.supervisor(sandbox).private_memory + self.worker(sandbox).private_memory

    def node(self, sandbox: Sandbox) -> dict[str, Any]:
        """The status of a pod's node from the LocalAPI, as ``tailscale status --json`` prints it; empty if the LocalAPI does not answer."""
        connection = UnixConnection(self.run_dir / self.id(sandbox) / "local.sock", "local-tailscaled.sock")
        try:
            connection.request("GET", "/localapi/v0/status")
            status: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return status

    def addressed(self, sandbox: Sandbox) -> bool:
        """Whether a pod's node has its addresses on ``ts0``, which is what ADD waits for."""
        addresses = set(self.node(sandbox).get("TailscaleIPs") or ())
        return bool(addresses) and addresses <= set(sandbox.interface("ts0").addresses)

    def running(self, sandbox: Sandbox) -> bool:
        """Whether the node is also Running: it has found its relay, and receives the netmap."""
        return self.node(sandbox).get("BackendState") == "Running" and self.addressed(sandbox)

    def is_node(self, sandbox: Sandbox, name: str) -> bool:
        """Whether a pod's node has that name and is online, and ts0 has the addresses of the node and no others."""
        node = self.control.node(name)
        if not (node and node["online"] and self.running(sandbox)):
            return False
        return set(node["addresses"]) == {
            a for a in sandbox.interface("ts0").addresses if ":" not in a or a.startswith("fd7a")
        }

    def addresses(self, sandbox: Sandbox) -> list[str]:
        """Wait until a pod's node is Running, and return its addresses, IPv4 first."""
        return wait_until(lambda: self._running_addresses(sandbox), what=f"{sandbox.pod.name} on the tailnet")

    def _running_addresses(self, sandbox: Sandbox) -> list[str]:
        """The addresses of a node that is Running, by one answer of it: a node that is handed over starts anew between two. Else none."""
        node = self.node(sandbox)
        if node.get("BackendState") != "Running" or not self.addressed(sandbox):
            return []
        addresses: list[str] = node.get("TailscaleIPs") or []
        return addresses

    def ports(self, sandbox: Sandbox) -> set[int]:
        """The UDP ports that a pod's worker listens on, in the worker's own namespace."""
        worker = self.worker(sandbox)
        sockets = set(worker.descriptors().values())
        rows = [
            line.split()
            for name in ("udp", "udp6")
            for line in _lines(Path(f"/proc/{worker.pid}/net/{name}"))
        ]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets}

    def command(self, *arguments: str) -> str:
        """Run the command line on this host, and return what it prints. Raises Failed."""
        return self.netns.run(self.runtime.plugin, *arguments)

    def processes(self) -> list[Process]:
        """The processes of the product on this host: those with a program, working directory or argument below ``root``."""

        def ours(process: Process) -> bool:
            places = [process.link("exe"), process.link("cwd"), *process.argv]
            return any(place.startswith(f"{self.root}/") or f"={self.root}/" in place for place in places)

        return processes(ours)

    def nodes(self) -> list[Process]:
        """The supervisors and workers among them. The others are short-lived commands."""
        return [p for p in self.processes() if p.link("exe").endswith(("/supervisor", "/worker"))]

    def files(self) -> list[str]:
        """The files of attachments in ``stateDir`` and ``runDir``, without the unpacked build and the directories that remain."""
        rooms = [self.state_dir / name for name in (*ROOMS, "run")]
        rooms.append(self.run_dir / "patience")
        kept = [self.state_dir / name for name in ("cache", "enroll.json", "host", "namespaces")]
        found = [path for top in (self.state_dir, self.run_dir) for path in _tree(top)]
        left = [p for p in found if p not in rooms and not any(p.is_relative_to(k) for k in kept)]
        return sorted(str(path.relative_to(self.root)) for path in left)

    def logs(self) -> str:
        """The logs of this host's nodes."""
        return "\n".join(
            f"== {path}\n{path.read_text(errors='replace')}" for path in sorted(self.run_dir.glob("*/log*"))
        )

    def leftovers(self) -> list[str]:
        """Everything that exists on this host because of a pod: empty before the first pod and after the last one."""
        links = self.netns.links() - {"lo", "eth0", "cni0"}
        rules = set(self.netns.rules()) - self._pristine
        return [
            *(f"process {p.pid}: {' '.join(p.argv)}" for p in self.processes()),
            *(f"file {name}" for name in self.files()),
            *(f"interface {name}" for name in sorted(links)),
            *(f"rule {rule}" for rule in sorted(rules)),
            *(f"control group {group}" for group in self._cgroups()),
        ]

    def _supervised(self, sandbox: Sandbox) -> bool:
        try:
            return self.supervisor(sandbox).alive
        except (OSError, ValueError, IndexError):
            return False

    def _cgroups(self) -> list[Path]:
        ids = {self.id(sandbox) for sandbox in self.sandboxes}
        rooms = (Path(top) for top, _, _ in os.walk(CGROUPS) if top.endswith("/tailscale-cni"))
        return [group for room in rooms for group in room.glob("*") if group.name in ids]


def _lines(table: Path) -> list[str]:
    """The lines of a table of /proc/net, without its header."""
    return table.read_text().splitlines()[1:]


def _tree(top: Path) -> Iterator[Path]:
    """Every path below ``top``. Other processes may remove some of them meanwhile."""
    for directory, folders, names in os.walk(top):
        yield from (Path(directory, name) for name in (*folders, *names))
