"""Third-party programs that the tests drive the product with, built from pinned Go modules, and the product's own artefact."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import builds
from builds.go import TAILSCALE_PATCHES

MODULE = Path(__file__).parents[1] / "tools"
REFERENCE_PLUGINS = {
    "bridge": "github.com/containernetworking/plugins/plugins/main/bridge",
    "loopback": "github.com/containernetworking/plugins/plugins/main/loopback",
    "host-local": "github.com/containernetworking/plugins/plugins/ipam/host-local",
    "portmap": "github.com/containernetworking/plugins/plugins/meta/portmap",
}
CLIENTS = {
    "cnitool": "github.com/containernetworking/cni/cnitool",
    "cniclient": "./cmd/cniclient",
    "tailscale": "tailscale.com/cmd/tailscale",
    "tailscaled": "tailscale.com/cmd/tailscaled",
}


@cache
def reference_plugins() -> Path:
    """The directory of the CNI project's plugins: bridge, loopback, host-local, portmap."""
    return builds.go_build(MODULE, REFERENCE_PLUGINS, goarch=_goarch())


@cache
def clients() -> Path:
    """The directory of cnitool, cniclient, tailscale and tailscaled."""
    return builds.go_build(MODULE, CLIENTS, goarch=_goarch(), patches=TAILSCALE_PATCHES)


@cache
def apiclient() -> Path:
    """One call through Tailscale's own client of its API (tests/tools/cmd/apiclient)."""
    return builds.go_build(MODULE, {"apiclient": "./cmd/apiclient"}, goarch=_goarch()) / "apiclient"


@cache
def devcontrol() -> Path:
    """The control plane of the tests."""
    return builds.devcontrol()


@cache
def artefact() -> Path:
    """The built ``tailscale-cni``, as it is shipped."""
    return builds.zipapp()


def other_build(number: int) -> bytes:
    """The same programs with another build ID, for each number another one: what an upgrade comes from or goes to."""
    text = artefact().read_bytes()
    ours = text.partition(b'BUILD_ID = "')[2].partition(b'"')[0]
    return text.replace(b'"%s"' % ours, b'"%0*d"' % (len(ours), number), 1)


def _goarch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
