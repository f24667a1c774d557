"""The root file system of the hosts: a minimal Debian, installed once from the machine's own apt sources.

It contains what a host of a cluster needs: systemd, Python, ip and nft. After the installation it never changes,
because each host has its own layer above it.
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
"""Units that are useless in a container and would only compete with the tests."""

SOURCE = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"


@cache
def debian() -> Path:
    """The directory of the root file system. The first call builds it, which takes a minute or two."""
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
    """The machine's apt sources for the suite, as arguments of mmdebstrap. If there are none, mmdebstrap uses its default."""
    asked = attempt(
        ["apt-get", "indextargets", "--format", SOURCE, "Identifier: Packages", "Origin: Debian"]
    ).stdout.decode()
    return [line for line in asked.splitlines() if line.split()[2].partition("-")[0] == SUITE]
