"""A switch, in its own namespace, that connects hosts, peers and the control plane."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .actor import Actor
from .netns import Netns

V4 = ipaddress.IPv4Network("192.168.0.0/16")  # a whole run has more than 254 hosts
V6 = ipaddress.IPv6Network("fd77::/64")


@dataclass(frozen=True)
class Plug:
    """The addresses of a namespace on the wire."""

    v4: str
    v6: str


class Wire(Actor):
    """A bridge; each namespace that is plugged in gets ``eth0`` with an IPv4 and an IPv6 address."""

    def __init__(self) -> None:
        self._plugs = 0
        self.netns = Netns("wire")
        self.netns.run("ip", "link", "add", "wire", "type", "bridge", "forward_delay", "0")
        self.netns.run("ip", "link", "set", "wire", "up")

    def close(self) -> None:
        """Remove the bridge and all its connections."""
        self.netns.close()

    def plug(self, netns: Netns) -> Plug:
        """Create ``eth0`` in a namespace and connect it to the bridge; the connection ends with the namespace."""
        self._plugs += 1
        port, plug = (
            f"port{self._plugs}",
            Plug(str(V4[self._plugs]), str(V6[self._plugs])),
        )
        self.netns.run(
            "ip",
            "link",
            "add",
            port,
            "master",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            netns.name,
        )
        self.netns.run("ip", "link", "set", port, "up")
        netns.run("ip", "address", "add", f"{plug.v4}/{V4.prefixlen}", "dev", "eth0")
        netns.run("ip", "address", "add", f"{plug.v6}/{V6.prefixlen}", "dev", "eth0", "nodad")
        netns.run("ip", "link", "set", "eth0", "up")
        return plug
