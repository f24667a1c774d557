"""Where this host's runtime looks for network lists and plugins, and where its Python is: found, not asked for."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

BINARY = "tailscale-cni"


class Layout(NamedTuple):
    """A runtime's directories, as the host sees them, and what says so."""

    conf_dir: str
    bin_dir: str
    why: str


RUNTIME_CONFIGURATIONS = (
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/run/k0s/containerd-cri.toml",
    "/etc/crio/crio.conf",
    "/etc/containerd/config.toml",
)

KNOWN = (
    Layout("/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni", "k3s"),
    Layout(
        "/var/snap/microk8s/current/args/cni-network", "/var/snap/microk8s/current/opt/cni/bin", "MicroK8s"
    ),
    Layout("/etc/cni/net.d", "/opt/cni/bin", "the default"),
)

PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
"""Names that stay when the host's Python is upgraded."""

CONF_DIR = re.compile(r'^\s*(?:conf_dir|network_dir)\s*=\s*["\']([^"\']+)["\']', re.MULTILINE)
BIN_DIR = re.compile(r'^\s*(?:bin_dirs?|plugin_dirs?)\s*=\s*\[?\s*["\']([^"\']+)["\']', re.MULTILINE)


def detect_layout(root: str) -> Layout:
    """The layout of the host whose root directory is ``root`` (``""`` for this one)."""
    known = next((layout for layout in KNOWN if os.path.isdir(root + layout.conf_dir)), KNOWN[-1])
    for path in RUNTIME_CONFIGURATIONS:
        try:
            with open(root + path, encoding="utf-8", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        conf, plugins = CONF_DIR.search(text), BIN_DIR.search(text)
        if conf or plugins:
            return Layout(conf[1] if conf else known.conf_dir, plugins[1] if plugins else known.bin_dir, path)
    return known


def find_python(root: str) -> str | None:
    """The host's Python by a name that stays, if the program that it leads to is called 3.10 or newer."""
    for python in PYTHONS:
        try:
            program = os.readlink(root + python) if root else os.path.realpath(python)
        except OSError:
            continue
        version = re.fullmatch(r"(?:.*/)?python3\.(\d+)", program)
        if version and int(version[1]) >= 10:
            return python
    return None
