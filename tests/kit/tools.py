"""Third-party programs for the tests, built from pinned Go modules, and the product's own artefact."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import builds
from builds.go import TAILSCALE_PATCHES

MODULE = Path(__file__).parents[1] / "tools"
PREVIOUS = "80d32021e8653b740c2b7e295bde8720633981c0"
"""The commit of the previous version: the tests upgrade its state to this version, and downgrade it again."""
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
    """The program that makes one call with Tailscale's own API client (tests/tools/cmd/apiclient)."""
    return builds.go_build(MODULE, {"apiclient": "./cmd/apiclient"}, goarch=_goarch()) / "apiclient"


@cache
def devcontrol() -> Path:
    """The tests' control plane."""
    return builds.devcontrol()


@cache
def artefact() -> Path:
    """The built ``tailscale-cni``, as released."""
    return builds.zipapp()


@cache
def previous() -> Path:
    """The artefact of the previous version, built by that version's own build from this repository's history. Raises RuntimeError."""

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="tailscale-cni-") as source:
            _check_out(PREVIOUS, Path(source))
            command = [sys.executable, "packaging/build.py", "zipapp"]
            subprocess.run(command, cwd=source, check=True, env={**os.environ, "PYTHONPATH": ""})
            shutil.copy(Path(source, "dist", "tailscale-cni"), directory)

    return builds.build_once(f"previous-{_goarch()}-{PREVIOUS[:20]}", build) / "tailscale-cni"


def _check_out(commit: str, directory: Path) -> None:
    """Write the files of a commit to a directory. Tests run as root, but the clone may belong to another user."""
    git = ["git", "-c", "safe.directory=*", "-C", str(MODULE)]
    top = subprocess.run([*git, "rev-parse", "--show-toplevel"], check=True, capture_output=True, text=True)
    archive = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", top.stdout.strip(), "archive", commit],
        check=False,
        capture_output=True,
    )
    if archive.returncode:
        raise RuntimeError(
            f"this clone has no commit {commit}, which tests/netns/test_downgrade.py needs: 'git fetch --unshallow'. "
            + archive.stderr.decode(errors="replace")
        )
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)


def other_build(number: int) -> bytes:
    """The artefact with another build ID, a different one for each ``number``, to upgrade from or to."""
    text = artefact().read_bytes()
    ours = text.partition(b'BUILD_ID = "')[2].partition(b'"')[0]
    return text.replace(b'"%s"' % ours, b'"%0*d"' % (len(ours), number), 1)


def _goarch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
