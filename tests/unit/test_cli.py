"""The command line ends every failure with a message and an exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailscale_cni import cli, config
from tailscale_cni.install import conflist, detect
from tailscale_cni.install.record import Installation


def test_what_the_disk_refuses_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot use a file names the file and exits with status 1. A user who is not root sees the same."""
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
    """In another root directory, the version of Python is known only from the name that its link points to."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    if program:
        (tmp_path / "usr/bin/python3").symlink_to(program)
    assert detect.find_python(str(tmp_path)) == found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The state directory of an installed host with keys in the conflist entry, keys in the file, and a secret."""
    state = tmp_path / "state"
    state.mkdir(mode=0o711)
    key = tmp_path / "key"
    key.write_text("tskey-auth-secret", encoding="utf-8")
    settings = {"enroll": "all", "tags": ["tag:file"], "permissions": {"*": "all"}, "authKeyFile": str(key)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    entry = conflist.entry(
        stateDir=str(state), configFile=str(tmp_path / "config.yaml"), tags=["tag:entry"], readyTimeout="90s"
    )
    Installation("/etc/cni/net.d", "/opt/cni/bin", entry).save(str(state))
    return state


def test_config_show_says_what_is_in_force_and_where_it_is_from(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``config show`` prints a row per key. The entry overrides the file, and the file the default. No secret is shown."""
    assert cli.main(["config", "show", "--state-dir", str(installed)]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split(None, 1)[1] for line in shown.splitlines()}
    file = str(installed.parent / "config.yaml")
    assert list(rows) == ["KEY", *(row.key for row in (*config.ROOTS, *config.SETTINGS))]
    assert rows["tags"].split() == ['["tag:entry"]', *config.ENTRY.split()]
    assert rows["readyTimeout"].split() == ["90s", *config.ENTRY.split()]
    assert rows["enroll"].split() == ["all", file]
    assert rows["permissions"].removesuffix(file).strip() == '{"*": "all"}'
    assert rows["authKeyTTL"].split() == ["10m", "default"]
    assert rows["stateDir"].split() == [str(installed), *config.ENTRY.split()]
    assert "secret" not in shown


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_config_show_has_forms_for_programs(
    installed: Path, capsys: pytest.CaptureFixture[str], form: str, read: Any
) -> None:
    """The values of ``config show -o json`` and ``-o yaml`` are a configuration file with the same meaning."""
    assert cli.main(["config", "show", "--state-dir", str(installed), "-o", form]) == 0
    document = read(capsys.readouterr().out)
    assert (document["apiVersion"], document["kind"]) == ("tailscale-cni/v1", "Configuration")
    shown = document["settings"]
    assert shown["tags"] == {"value": ["tag:entry"], "from": config.ENTRY}
    values = {row.key: shown[row.key]["value"] for row in config.SETTINGS if shown[row.key]["value"] != ""}
    again = installed.parent / "again.yaml"
    again.write_text(yaml.safe_dump(values), encoding="utf-8")
    wanted = config.load_config(Installation.load(str(installed)).entry)  # type: ignore[union-attr]
    found = config.load_config({"configFile": str(again)})
    keys = [config.attribute(row.key) for row in config.SETTINGS]
    assert [getattr(found, key) for key in keys] == [getattr(wanted, key) for key in keys]


def test_config_show_before_there_is_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before an installation, ``config show`` says on standard error that nothing is installed, and prints the defaults."""
    assert cli.main(["config", "show", "--state-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "not installed" in said.err
    assert "readyTimeout" in said.out


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("enrol: all\n", "Did you mean enroll?"),
        ("tags: [", "It must be YAML."),
        ("namespaces: {a: {tailscale.com/hostnam: x}}\n", "Did you mean tailscale.com/hostname?"),
    ],
)
def test_a_broken_configuration_is_a_sentence(
    installed: Path, capsys: pytest.CaptureFixture[str], text: str, error: str
) -> None:
    """``config show`` and ``config check`` name a broken file, say what is wrong and exit with status 1."""
    file = installed.parent / "config.yaml"
    file.write_text(text, encoding="utf-8")
    for command in (["show", "--state-dir", str(installed)], ["check", str(file)]):
        assert cli.main(["config", *command]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert str(file) in said.err
        assert error in said.err


def test_config_check_knows_a_good_file(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``config check`` accepts a valid file at any path, and fails for a missing file."""
    monkeypatch.chdir(installed.parent)
    assert cli.main(["config", "check", "config.yaml"]) == 0
    assert "config.yaml is a valid configuration" in capsys.readouterr().out
    assert cli.main(["config", "check", "missing.yaml"]) == 1
    assert "there is no such file" in capsys.readouterr().err
