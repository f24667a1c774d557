"""Patches of Go modules: a build may change a module that it requires, by patch files that say why.

A patch file is a unified diff below a head in plain text. The head gives the reason, and two lines name what the patch was judged
against: `Module: PATH` and `Version: VERSION`. Another version in go.mod fails the build until somebody has judged the patch again and
has written the new version into its head.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from builds.apt import need
from builds.cache import build_once, cache_dir, digest


class Patch(NamedTuple):
    """A patch file, and what it was judged against."""

    path: Path
    module: str
    version: str


def read(path: Path) -> Patch:
    """The patch in a file. Raises ValueError if its head does not name a module and a version."""
    head, diff, _ = path.read_text(encoding="utf-8").partition("\n--- a/")
    found = {name: re.findall(rf"^{name}: (\S+)$", head, re.MULTILINE) for name in ("Module", "Version")}
    if not diff or any(len(values) != 1 for values in found.values()):
        raise ValueError(
            f"{path.name}: a head with one line 'Module: …' and one 'Version: …', then a diff, is expected"
        )
    return Patch(path, found["Module"][0], found["Version"][0])


def patched_sources(module: Path, patches: Sequence[Path], go: Path, env: dict[str, str]) -> Path:
    """A copy of `module`, in the cache, that requires patched copies of what `patches` change.

    `module` is the directory of a Go module, `go` the command of the toolchain and `env` its environment. The paths of the patched
    copies are relative, so that a program built of them is the same for every user. Raises ValueError if a patch was judged against
    another version than go.mod requires, or does not apply.
    """
    modules = _patched_modules(module, [read(path) for path in patches], go, env)
    files = [path for path in sorted(module.rglob("*")) if path.is_file()]
    content = (part for path in files for part in (str(path.relative_to(module)), path.read_bytes()))
    key = digest(
        [
            *(f"{name}={folder.parent.name}" for name, folder in modules.items()),
            Path(__file__).read_bytes(),
            *content,
        ]
    )

    def build(directory: Path) -> None:
        _copy(module, directory / module.name)
        with (directory / module.name / "go.mod").open("a", encoding="utf-8") as requirements:
            for name, folder in modules.items():
                requirements.write(f"\nreplace {name} => ../../{folder.relative_to(cache_dir())}\n")

    return build_once(f"{module.name}-sources-{key}", build) / module.name


def _patched_modules(
    module: Path, patches: Sequence[Patch], go: Path, env: dict[str, str]
) -> dict[str, Path]:
    """`{module path: directory with its patched copy}`."""
    result = {}
    for name in sorted({patch.module for patch in patches}):
        ours = [patch for patch in patches if patch.module == name]
        version, original = _required(module, name, go, env)
        for patch in ours:
            if patch.version != version:
                raise ValueError(
                    f"{patch.path.name} was judged against {name} {patch.version}, and {module.name}/go.mod requires {version}: "
                    "judge it again (CONTRIBUTING.md, Following a Tailscale release)"
                )
        key = digest(
            [name, version, Path(__file__).read_bytes(), *(patch.path.read_bytes() for patch in ours)]
        )
        folder = original.name.partition("@")[0]

        def build(
            directory: Path, ours: list[Patch] = ours, original: Path = original, folder: str = folder
        ) -> None:
            _copy(original, directory / folder)
            for patch in ours:
                _apply(patch, directory / folder)

        result[name] = build_once(f"patched-{key}", build) / folder
    return result


def _required(module: Path, name: str, go: Path, env: dict[str, str]) -> tuple[str, Path]:
    """The version of a module that ours requires, and its directory in the module cache, checked against our go.sum."""
    command = [str(go), "mod", "download", "-json", name]
    done = subprocess.run(command, cwd=module, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return found["Version"], Path(found["Dir"])


def _apply(patch: Patch, folder: Path) -> None:
    """Apply a patch to the files of a folder. Every line of its context has to match."""
    if shutil.which("patch") is None:
        need(["patch"])
    command = ["patch", "--strip=1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch"]
    done = subprocess.run(
        [*command, f"--directory={folder}", f"--input={patch.path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"{patch.path.name} does not apply to {patch.module} {patch.version}:\n{done.stdout}{done.stderr}"
        )


def _copy(folder: Path, to: Path) -> None:
    """Copy a folder's files with new modes: the module cache is read-only, and the copy can be removed."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
