"""The Go modules are patched exactly as the patches were judged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from builds import go_toolchain, workers
from builds.go import PATCHES, WORKERS, go_environ
from builds.patches import patched_sources, read

REQUIRED = {
    words[0]: words[1]
    for words in map(str.split, (WORKERS / "go.mod").read_text(encoding="utf-8").splitlines())
    if len(words) >= 2 and words[1].startswith("v")
}


def sources(*patches: Path) -> Path:
    """Returns the workers' module with these patches applied."""
    return patched_sources(WORKERS, patches, go_toolchain(), go_environ())


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_was_judged_against_the_required_version(path: Path) -> None:
    """A patch names the version that go.mod requires. After an upgrade, the patch must be judged again."""
    patch = read(path)
    assert patch.version == REQUIRED[patch.module]


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_gives_its_reason(path: Path) -> None:
    """The head of a patch has a subject and an explanation of more than 100 characters."""
    subject, empty, *body = path.read_text(encoding="utf-8").partition("\nModule: ")[0].splitlines()
    assert subject
    assert not empty
    assert len(" ".join(body)) > 100


def test_the_patches_are_numbered() -> None:
    """Patches are numbered 0001, 0002, … in the order in which they are applied."""
    assert [path.name[:5] for path in PATCHES] == [f"{n:04}-" for n in range(1, len(PATCHES) + 1)]


def test_the_copy_requires_the_patched_modules() -> None:
    """A copy's go.mod replaces each patched module with a relative path. The module cache and our go.mod do not change."""
    copy = sources(*PATCHES)
    requirements = (copy / "go.mod").read_text(encoding="utf-8")
    for module in {read(path).module for path in PATCHES}:
        assert f"replace {module} => ../../patched-" in requirements
        assert f"replace {module} " not in (WORKERS / "go.mod").read_text(encoding="utf-8")
    assert all(Path(folder).stat().st_mode & 0o700 == 0o700 for folder, _, _ in os.walk(copy))


def test_nothing_else_is_replaced() -> None:
    """The worker is built from published modules, except the patched ones and gvisor, whose version go.mod replaces."""
    command = [str(go_toolchain()), "version", "-m", str(workers() / "worker")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    modules = [line.split()[:2] for line in lines if line.startswith(("\tdep\t", "\t=>\t"))]
    replaced = [modules[n - 1][1] for n, words in enumerate(modules) if words[0] == "=>"]
    assert sorted(replaced) == sorted({read(path).module for path in PATCHES} | {"gvisor.dev/gvisor"})


def test_a_patch_for_another_version_is_refused(tmp_path: Path) -> None:
    """The build rejects a patch for another version, names it and says where judging is explained."""
    patch = changed(PATCHES[0], tmp_path, f"Version: {read(PATCHES[0]).version}", "Version: v0.0.1")
    with pytest.raises(ValueError, match=r"judged against .* v0\.0\.1, .* judge it again \(CONTRIBUTING"):
        sources(patch)


def test_a_patch_whose_context_differs_is_refused(tmp_path: Path) -> None:
    """The build rejects a patch if a line of its context differs. There is no fuzz."""
    text = PATCHES[0].read_text(encoding="utf-8")
    context = next(
        line for line in text.partition("\n@@ ")[2].splitlines()[1:] if line.startswith(" ") and line.strip()
    )
    patch = changed(PATCHES[0], tmp_path, f"\n{context}\n", f"\n{context} another\n")
    with pytest.raises(ValueError, match="does not apply"):
        sources(patch)


@pytest.mark.parametrize("left_out", ["Module: ", "Version: ", "\n--- a/"])
def test_a_patch_without_a_head_or_a_diff_is_refused(left_out: str, tmp_path: Path) -> None:
    """The build rejects a patch without a module, a version or a diff."""
    with pytest.raises(ValueError, match="is expected"):
        sources(changed(PATCHES[0], tmp_path, left_out, "\n"))


def changed(original: Path, folder: Path, text: str, other: str) -> Path:
    """Returns a copy of a patch with one text replaced once."""
    content = original.read_text(encoding="utf-8")
    assert text in content
    copy = folder / original.name
    copy.write_text(content.replace(text, other, 1), encoding="utf-8")
    return copy
