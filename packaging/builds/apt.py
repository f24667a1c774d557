"""The Debian packages that each test suite needs, and their installation."""

import os
import subprocess
import sys
from collections.abc import Iterable

from builds.cache import locked

SUITES = {
    "venv": ["python3-venv"],
    "patch": ["patch"],
    "unit": ["openssl", "shellcheck", "strace"],
    "netns": ["git", "iproute2", "iputils-ping", "nftables", "procps"],
    "hosts": ["iproute2", "mmdebstrap", "systemd-container"],
    "cluster": ["iproute2", "nftables"],
    "bench": ["git", "iperf3", "iproute2", "iptables", "nftables"],
}


def need(suites: Iterable[str]) -> None:
    """Install the missing packages of some suites. Raises SystemExit, which names them, if that fails."""
    wanted = sorted({package for suite in suites for package in SUITES[suite]})
    with locked("apt"):
        if missing := [package for package in wanted if not installed(package)]:
            install(missing)


def installed(package: str) -> bool:
    """Whether a package is installed and configured."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"
    except FileNotFoundError:
        return False


def install(packages: list[str]) -> None:
    """Run apt-get install, without questions and recommended packages."""
    if os.geteuid() != 0:
        raise SystemExit(f"not installed, and only root can install them: {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        try:
            subprocess.run(
                ["apt-get", "--quiet=2", "-o=DPkg::Lock::Timeout=600", "-o=Dpkg::Use-Pty=0", *arguments],
                check=True,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"apt-get could not install {' '.join(packages)}: {error}") from error
