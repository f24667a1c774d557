"""The command line's ends: whatever goes wrong is a sentence and an exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailscale_cni import cli


def test_what_the_disk_refuses_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that meets a file that it cannot use names it and ends with 1, as for a person who is not root."""
    binary = tmp_path / "bin/tailscale-cni"
    binary.mkdir(parents=True)
    places = ["--cni-conf-dir", str(tmp_path), "--cni-bin-dir", str(tmp_path / "bin")]
    assert (
        cli.main(["uninstall", "--state-dir", str(tmp_path / "s"), "--run-dir", str(tmp_path / "r"), *places])
        == 1
    )
    assert str(binary) in capsys.readouterr().err
