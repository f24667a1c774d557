"""The root file system of the hosts: a minimal Debian, installed from the machine's own apt sources, once.

It is what a person has who sets up a host for a cluster: systemd, Python, ip and nft. It is never written to
again: each host has a layer of its own above it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from builds.cache import build_once, digest

from tests.kit.process import CLEAN, attempt, run

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "systemd-container", "dbus", "python3", "iproute2", "nftables", "procps")
MASKED = (
    "getty.target",
    "console-getty.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)
"""What has nothing to do in a container, and would only run beside the tests."""

SOURCE = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"


@cache
def debian() -> Path:
    """The directory of the root file system. It takes a minute or two the first time."""
    key = digest([SUITE, *PACKAGES, *MASKED, os.uname().machine])
    return build_once(f"host-debian-{key}", _install)


def _install(root: Path) -> None:
    hook = f'chroot "$1" systemctl mask {" ".join(MASKED)}'
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        f"--customize-hook={hook}",
    ]
    run([*command, SUITE, root, *_sources()], env=CLEAN | {"DEBIAN_FRONTEND": "noninteractive"}, timeout=1200)


def _sources() -> list[str]:
    """The machine's sources of that suite, for mmdebstrap; if apt knows of none, mmdebstrap has a default."""
    asked = attempt(
        ["apt-get", "indextargets", "--format", SOURCE, "Identifier: Packages", "Origin: Debian"]
    ).stdout.decode()
    return [line for line in asked.splitlines() if line.split()[2].partition("-")[0] == SUITE]
