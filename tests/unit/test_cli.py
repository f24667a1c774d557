"""The command line's ends: whatever goes wrong is a sentence and an exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailscale_cni import cli
from tailscale_cni.cli import layout


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


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("python3.11", "/usr/bin/python3"),
        ("python3.10", "/usr/bin/python3"),
        ("python3.9", None),
        ("/etc/alternatives/python3", None),
        ("pypy3.11", None),
        ("", None),
    ],
)
def test_a_hosts_python_is_told_by_its_link(tmp_path: Path, program: str, found: str | None) -> None:
    """A Python of another root directory cannot be asked: its link says how new it is, or nobody knows."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    if program:
        (tmp_path / "usr/bin/python3").symlink_to(program)
    assert layout.find_python(str(tmp_path)) == found
