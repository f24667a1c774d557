"""The programs that a machine of the cluster suite runs, built or downloaded once into a cache keyed by content.

Kubernetes and containerd are built from pinned Go modules. Debian's containerd, runc and etcd are unpacked, but not
installed. The container images are built by this suite.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import builds
from builds.cache import digest
from builds.go import machine_goarch

from tests.kit.process import Failed, run

from . import images

TOOLS: Final = Path(__file__).with_name("tools")
KUBERNETES: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
CONTAINERD: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
APT: Final = ("apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root")
PACKAGES: Final = ("busybox-static", "containerd", "etcd-server", "libseccomp2", "openssl", "runc")


def version(tool: str) -> str:
    """The version of `kubernetes` or `containerd` that go.mod pins."""
    text = (TOOLS / tool / "go.mod").read_text()
    found = re.search(rf"\S+/{tool}(?:/v\d+)? (v\S+)", text)
    assert found, f"{tool}'s go.mod requires no {tool}"
    return found[1]


@cache
def kubernetes() -> Path:
    """The directory of kubelet, kubectl and the programs of the control plane."""
    stamp = "k8s.io/component-base/version"
    release = version("kubernetes")
    _, minor, _ = release.split(".")
    facts = {"gitVersion": release, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
    flags = " ".join(["-s -w", *(f"-X {stamp}.{name}={value}" for name, value in facts.items())])
    packages = {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES}
    return builds.go_build(TOOLS / "kubernetes", packages, ldflags=flags, goarch=machine_goarch())


@cache
def containerd() -> Path:
    """The directory of containerd 2.x, its shim, ctr, and this suite's own pause."""
    flags = f"-s -w -X github.com/containerd/containerd/v2/version.Version={version('containerd')}"
    packages = {name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in CONTAINERD}
    return builds.go_build(
        TOOLS / "containerd",
        {**packages, "pause": "./pause"},
        tags="no_btrfs,no_zfs,no_aufs,no_devmapper",
        ldflags=flags,
        goarch=machine_goarch(),
    )


@cache
def debian() -> Path:
    """A directory with the unpacked files of Debian's containerd 1.6, runc, etcd, openssl and busybox; nothing is installed."""
    try:
        return _unpacked()
    except (Failed, subprocess.CalledProcessError):
        # The machine's package lists are missing or out of date.
        run([*APT, "update"], timeout=300)
        return _unpacked()


def _unpacked() -> Path:
    """Download and unpack the packages that apt offers now; names, versions and hashes are the key of the cache."""
    offered = run([*APT, "--print-uris", "download", *PACKAGES])

    def unpack(directory: Path) -> None:
        archives = directory / "archives"
        archives.mkdir()
        subprocess.run([*APT, "download", *PACKAGES], cwd=archives, check=True)
        for archive in sorted(archives.iterdir()):
            run(["dpkg-deb", "--extract", archive, directory])
            archive.unlink()
        archives.rmdir()

    return builds.build_once(f"debian-{digest(offered.splitlines())}", unpack)


@cache
def image(name: str) -> Path:
    """The archive of the container image `pause` or `busybox`, tagged `localhost/NAME:test`."""
    contents = {
        "pause": (images.Image("pause", ("/pause",)), {"pause": containerd() / "pause"}, {}),
        "busybox": (
            images.Image("busybox", ("/bin/sh",)),
            {"bin/busybox": debian() / "bin" / "busybox"},
            {f"bin/{applet}": "busybox" for applet in images.APPLETS},
        ),
    }
    made, files, links = contents[name]
    archive = made.archive(files, links)
    key = digest([archive])
    return builds.build_once(f"image-{name}-{key}", lambda d: _write(d / "image.tar", archive)) / "image.tar"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
