"""What the programs of a pod are built of is changed as it was judged, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from builds import go_toolchain, workers
from builds.changes import CHANGES, GO, SMALL_SPAN_SETS, Change, apply
from builds.go import WORKERS, go_environ


def applied(changes: tuple[Change, ...], scratch: Path) -> tuple[Path, dict[str, str]]:
    """The copy of the workers' module, and what replaces which file of Go's own library."""
    copy, options = apply(changes, go_toolchain(), WORKERS, scratch, go_environ())
    (option,) = options
    replaced: dict[str, str] = json.loads(Path(option.removeprefix("-overlay=")).read_text())["Replace"]
    return copy, replaced


def test_the_changes_are_made_in_a_copy(tmp_path: Path) -> None:
    """Each text is another one there, what comes beside is there, and the module is required from there, once."""
    copy, replaced = applied(CHANGES, tmp_path)
    library = go_toolchain().parent.parent / "src"
    for change in CHANGES:
        where = tmp_path / Path(change.module).name / change.file
        changed = Path(replaced[str(library / change.file)]) if change.module == GO else where
        text = changed.read_text(encoding="utf-8")
        assert all(other in text for other in change.texts.values()), change
        assert all((where.parent / Path(name).name).is_file() for name in change.beside)
    requirements = (copy / "go.mod").read_text(encoding="utf-8")
    assert requirements.count("replace ") == 1
    assert "replace github.com/tailscale/wireguard-go => ../wireguard-go\n" in requirements
    assert "replace " not in (WORKERS / "go.mod").read_text(encoding="utf-8")


def test_the_worker_is_built_of_what_is_changed() -> None:
    """It has the functions that come beside, and not the one of a library that one of them replaces."""
    program = (workers() / "worker").read_bytes()
    assert b"wireguard-go/device.(*lent).rest" in program
    assert b"wireguard-go/tun.writev" in program
    assert b"x/sys/unix.Writev" not in program


def test_what_is_copied_can_be_removed(tmp_path: Path) -> None:
    """By who is not root, too: the module cache is read-only, its copy is not."""
    applied(CHANGES, tmp_path)
    assert all(Path(folder).stat().st_mode & 0o700 == 0o700 for folder, _, _ in os.walk(tmp_path))


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    """A change is for one file, which is known by its content."""
    with pytest.raises(ValueError, match=r"mspanset\.go .* judged anew"):
        applied((SMALL_SPAN_SETS._replace(sha256="0" * 64),), tmp_path)


def test_a_text_that_is_not_there_once_is_not_replaced(tmp_path: Path) -> None:
    """Neither nowhere nor here and there."""
    for text in ("no such text", "spanSet"):
        with pytest.raises(ValueError, match="is not once in"):
            applied((SMALL_SPAN_SETS._replace(texts={text: ""}),), tmp_path)
