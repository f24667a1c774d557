"""``make lock`` follows the releases of tailscale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builds.go import DEVCONTROL, TOOLS, WORKERS
from builds.lock import newest_first, require


def test_only_stable_releases_are_followed() -> None:
    """Only stable versions, which have an even minor number, are followed: newest first, and none older than the one in use."""
    versions = ["v1.102.5", "v1.103.0-pre", "v1.104.0", "v1.104.2", "v1.104.10", "v1.105.3", "v1.104.9-rc1"]
    assert newest_first(versions, "v1.104.0") == ["v1.104.10", "v1.104.2", "v1.104.0"]


@pytest.mark.parametrize("module", [WORKERS, DEVCONTROL, TOOLS], ids=lambda path: path.name)
def test_the_version_in_use_is_one_that_lock_takes(module: Path, tmp_path: Path) -> None:
    """Requiring the version in use changes nothing."""
    copy = tmp_path / module.name
    shutil.copytree(module, copy)
    line = next(line for line in (module / "go.mod").read_text().splitlines() if "\ttailscale.com v" in line)
    assert require(copy, line.split()[1]) is None
    assert (copy / "go.mod").read_text() == (module / "go.mod").read_text()


def test_a_version_that_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    """If a version does not exist, go.mod and go.sum do not change, and the error is go's."""
    copy = tmp_path / "workers"
    shutil.copytree(WORKERS, copy)
    assert "v1.104.999" in (require(copy, "v1.104.999") or "")
    assert (copy / "go.mod").read_text() == (WORKERS / "go.mod").read_text()
    assert (copy / "go.sum").read_text() == (WORKERS / "go.sum").read_text()
