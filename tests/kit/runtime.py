"""The container runtime: libcni with bridge, host-local and tailscale-cni, with its own directories."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import tools
from .netns import Netns
from .process import CLEAN

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
PLUGIN = "tailscale-cni"


class CNIError(Exception):
    """The error that a plugin, or libcni itself (code 0), returned."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"code {code}: {msg} {details}".strip())
        self.code, self.msg, self.details = code, msg, details


@dataclass(frozen=True)
class Pod:
    """A pod as kubelet knows it."""

    name: str
    namespace: str = "default"
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def enrolled(cls, name: str, *, namespace: str = "default", **annotations: str) -> Pod:
        """A pod with the annotation enabled; ``hostname="web"`` adds the annotation ``tailscale.com/hostname: web``."""
        wanted = {
            "enabled": "true",
            **{key.replace("_", "-"): value for key, value in annotations.items()},
        }
        return cls(
            name,
            namespace,
            {f"tailscale.com/{key}": value for key, value in wanted.items()},
        )


@dataclass(frozen=True)
class Sandbox:
    """A pod's sandbox on a host: a container ID and a network namespace."""

    pod: Pod
    netns: Netns
    container_id: str = field(default_factory=lambda: secrets.token_hex(32))
    ifname: str = "eth0"

    def interface(self, name: str) -> Any:
        """testinfra's interface with that name, in the pod."""
        return self.netns.interface(name)

    @property
    def cni_args(self) -> list[tuple[str, str]]:
        """The pairs of CNI_ARGS, as containerd sets them."""
        return [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.pod.namespace),
            ("K8S_POD_NAME", self.pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", self.container_id),
            ("K8S_POD_UID", self.pod.uid),
        ]

    @property
    def capability_args(self) -> dict[str, Any]:
        """The arguments that the runtime passes to plugins that declare the capability."""
        return {ANNOTATIONS: dict(self.pod.annotations), "portMappings": []}


class Runtime:
    """Calls CNI as a runtime does, from its host's namespace, with one network list that it can rewrite.

    ``config`` is the configuration of tailscale-cni's entry. ``call`` and the methods of the verbs return the result or raise CNIError.
    """

    def __init__(
        self,
        netns: Netns,
        root: Path,
        config: Mapping[str, Any],
        *,
        subnet: str,
        subnet6: str,
    ) -> None:
        self.netns, self.root = netns, root
        self.config = dict(config)
        self.subnets = (subnet, subnet6)
        self.network = "pods"
        self.cni_version = "1.1.0"
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        self.plugin = Path(shutil.copy(tools.artefact(), self.bin / PLUGIN))

    def replace_plugin(self, content: bytes) -> None:
        """Replace the plugin's file by rename, as ``install`` does."""
        draft = self.plugin.with_name("draft~")
        draft.write_bytes(content)
        draft.chmod(0o755)
        draft.rename(self.plugin)

    def add_primary(self, sandbox: Sandbox) -> dict[str, Any]:
        """Call ADD with a list without tailscale-cni; the result is the prevResult for ``chained``."""
        conflist = self._write("primary", self.plugins[:1])
        result: dict[str, Any] = self.call("ADD", sandbox, conflist=str(conflist))
        return result

    def chained(self, verb: str, sandbox: Sandbox, **more: Any) -> Any:
        """Call tailscale-cni alone, as libcni does in a chain; ``more`` are keys of its input, such as ``prevResult``."""
        done = self.exec_plugin(self.environ(verb, sandbox), self.entry(sandbox, **more))
        answer: Any = json.loads(done.stdout or b"null")
        if done.returncode != 0:
            raise CNIError(**{key: value for key, value in answer.items() if key != "cniVersion"})
        return answer

    def add(self, sandbox: Sandbox, **changes: Any) -> dict[str, Any]:
        """Call ADD, and return the result of the whole list."""
        result: dict[str, Any] = self.call("ADD", sandbox, **changes)
        return result

    def delete(self, sandbox: Sandbox, **changes: Any) -> None:
        """Call DEL."""
        self.call("DEL", sandbox, **changes)

    def check(self, sandbox: Sandbox, **changes: Any) -> None:
        """Call CHECK."""
        self.call("CHECK", sandbox, **changes)

    def status(self) -> None:
        """Call STATUS."""
        self.call("STATUS")

    def gc(self, *valid: Sandbox) -> None:
        """Call GC with these sandboxes as the valid attachments."""
        self.call(
            "GC",
            validAttachments=[{"containerID": s.container_id, "ifname": s.ifname} for s in valid],
        )

    def call(self, verb: str, sandbox: Sandbox | None = None, **changes: Any) -> Any:
        """Make one call through libcni; ``changes`` replace keys of cniclient's request."""
        request: dict[str, Any] = {
            "verb": verb,
            "conflist": str(self.conflist()),
            "cacheDir": str(self.cache),
        }
        request["path"] = [str(self.bin), str(tools.reference_plugins())]
        if sandbox:
            request |= {
                "containerID": sandbox.container_id,
                "netns": str(sandbox.netns.path),
                "ifname": sandbox.ifname,
            }
            request |= {
                "args": sandbox.cni_args,
                "capabilityArgs": sandbox.capability_args,
            }
        answer = json.loads(
            self.netns.run(tools.clients() / "cniclient", stdin=json.dumps(request | changes))
        )
        if "error" in answer:
            raise CNIError(**answer["error"])
        return answer.get("result")

    def exec_plugin(
        self,
        environ: Mapping[str, str],
        stdin: bytes | Mapping[str, Any],
        *,
        argv: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """Run tailscale-cni alone, without libcni, with any environment and any standard input."""
        text = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
        return self.netns.attempt(self.plugin, *argv, stdin=text, env={**CLEAN, **environ})

    def environ(self, verb: str, sandbox: Sandbox) -> dict[str, str]:
        """The environment that libcni gives to a plugin."""
        return {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": str(sandbox.netns.path),
            "CNI_IFNAME": sandbox.ifname,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in sandbox.cni_args),
            "CNI_PATH": str(self.bin),
        }

    def entry(self, sandbox: Sandbox | None = None, **more: Any) -> dict[str, Any]:
        """The input that libcni writes to tailscale-cni; ``more`` are further keys, such as ``prevResult``."""
        entry = {
            "cniVersion": self.cni_version,
            "name": self.network,
            "type": PLUGIN,
            **self.config,
        }
        if sandbox:
            entry["runtimeConfig"] = {ANNOTATIONS: dict(sandbox.pod.annotations)}
        return entry | more

    @property
    def cache(self) -> Path:
        """The directory where libcni caches what it added."""
        return self.root / "cni-cache"

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """The plugins of the network list: the primary CNI, then tailscale-cni."""
        ranges = [[{"subnet": subnet}] for subnet in self.subnets]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        ipam = {
            "type": "host-local",
            "dataDir": str(self.root / "ipam"),
            "ranges": ranges,
            "routes": routes,
        }
        primary = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipMasqBackend": "nftables",
            "hairpinMode": True,
        }
        return [
            primary | {"ipam": ipam},
            {"type": PLUGIN, "capabilities": {ANNOTATIONS: True}, **self.config},
        ]

    def conflist(self) -> Path:
        """Write the network list with the current configuration, and return its path."""
        return self._write("pods", self.plugins)

    def _write(self, name: str, plugins: list[dict[str, Any]]) -> Path:
        path = self.root / "net.d" / f"{name}.conflist"
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(
            {"cniVersion": self.cni_version, "name": self.network, "plugins": plugins}, indent=2
        )
        if (
            not path.exists() or path.read_text() != text
        ):  # replaced atomically, because parallel calls read it
            temporary = path.with_suffix(f".{secrets.token_hex(4)}")
            temporary.write_text(text)
            temporary.replace(path)
        return path
