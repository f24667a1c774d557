"""The demo: one more entry in a host's CNI network list makes pods Tailscale nodes.

It uses the built artefact, a real libcni, the CNI project's bridge and host-local, the tests' control plane and a real tailscale
client. It runs in its own network namespaces, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from . import tools, traffic
from .controlplane import ControlPlane
from .host import Host
from .netns import Netns
from .peer import Peer
from .runtime import Pod
from .wire import Wire

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def step(text: str) -> None:
    """Print the heading of the next step."""
    print(f"{_paint('1;36', '==>')} {_paint('1', text)}", flush=True)


def show(text: str) -> None:
    """Print the output of a step."""
    for line in text.splitlines():
        print(f"    {line}", flush=True)


def main() -> int:
    """Run the demo once; return 0 if everything that it claims was true."""
    if os.geteuid() != 0:
        print("The demo makes network namespaces: please run it as root.", file=sys.stderr)
        return 1
    step("Building the plugin, and the programs around it (cached: only the first time takes minutes)")
    show(f"{tools.artefact()}, {tools.clients()}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tscni-") as directory:
        Path(directory).chmod(0o711)  # workers do not run as root, but must pass through this directory
        left = play(Path(directory))
    if left:
        print(f"left behind: {', '.join(left)}", file=sys.stderr)
        return 1
    show(f"All of it in {time.monotonic() - started:.1f} s.")
    return 0


def play(root: Path) -> list[str]:
    """Run the demo in ``root``, and return what it left behind."""
    with Wire() as wire:
        step("A control plane, as Tailscale or Headscale would be")
        with ControlPlane(wire, root / "control") as control, Netns("peer") as elsewhere:
            show(f"{control.url}, MagicDNS domain {control.domain}")
            wire.plug(elsewhere)
            step("Somebody's laptop joins the tailnet: plain tailscaled, elsewhere on the network")
            with Peer(control, elsewhere, root / "peer", "laptop") as laptop:
                show(f"laptop {' '.join(laptop.addresses)}")
                with Host(wire, control, root / "host") as host:
                    return enrol(host, laptop)


def enrol(host: Host, laptop: Peer) -> list[str]:
    """Start a pod, fetch its page, and delete the pod; return what it left behind."""
    entry = {
        key: value
        for key, value in host.runtime.plugins[1].items()
        if key in ("type", "capabilities", "controlURL", "authKeyFile")
    }
    step("A host with a CNI network list: bridge, host-local, and one entry of ours")
    show(json.dumps(entry, indent=2))
    pod = Pod.enrolled("plex-7b5d9c6f8-xkz2w", namespace="media")
    step(f"The runtime starts pod {pod.namespace}/{pod.name}, annotated")
    show("\n".join(f"{key}: {value!r}" for key, value in pod.annotations.items()))
    sandbox = host.start(pod)
    addresses, node = host.addresses(sandbox), host.node(sandbox)["Self"]
    name = node["DNSName"].rstrip(".")
    show(
        f"Kubernetes address {sandbox.interface('eth0').addresses[0]} on eth0, as the primary plugin gave it"
    )
    show(f"tailnet address    {', '.join(addresses)} on ts0")
    show(f"name               {name}, {', '.join(node['Tags'])}")
    step("A web server in the pod, which knows nothing of Tailscale")
    with traffic.web_server(sandbox.netns, host.root / "web.log", text="Hello from the pod. You are"):
        url = f"http://{name.partition('.')[0]}/"
        step(f"The laptop opens {url}")
        page = laptop.fetch(url)
        show(page)
        if not page.endswith(laptop.addresses[0]) and not page.endswith(laptop.addresses[1]):
            return [f"a page that was not asked for over the tailnet: {page}"]
    step("The runtime deletes the pod")
    host.runtime.delete(sandbox)
    left = host.leftovers() + [
        node["name"] for node in host.control.nodes() if node["addresses"] == addresses
    ]
    if not left:
        show("No process, no interface, no file, no routing rule, and no node in the tailnet is left.")
    return left


if __name__ == "__main__":
    sys.exit(main())
