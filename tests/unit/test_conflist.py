"""The runtime's network lists: how the primary CNI's list is found, and the list that is derived from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tailscale_cni import errors
from tailscale_cni.install import conflist
from tailscale_cni.state import files

if TYPE_CHECKING:
    from pathlib import Path


def put(directory: Path, name: str, *types: str, **keys: Any) -> dict[str, Any]:
    """Write a network list with plugins of these types. Returns it as a document."""
    plugins = [{"type": kind, "mtu": 1450} for kind in types]
    document = {"cniVersion": "1.0.0", "name": "cbr0", "plugins": plugins, **keys}
    (directory / name).write_text(json.dumps(document))
    return document


def test_our_list_is_the_primarys_and_our_entry(tmp_path: Path) -> None:
    """The derived list has the name, version, keys and plugins of the primary CNI's list, and our entry at the end."""
    document = put(tmp_path, "10-flannel.conflist", "flannel", "portmap", disableCheck=True)
    primary = conflist.find_primary(str(tmp_path))
    ours = json.loads(conflist.derive(primary, conflist.entry(stateDir="/s")))
    assert ours["plugins"].pop() == {
        "type": "tailscale-cni",
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "stateDir": "/s",
    }
    assert ours == document


def test_the_primarys_file_stays_as_it_is(tmp_path: Path) -> None:
    """The primary CNI's list is not changed, because the primary would overwrite the change."""
    put(tmp_path, "10-flannel.conflist", "flannel")
    before = (tmp_path / "10-flannel.conflist").read_bytes()
    ours = conflist.derive(conflist.find_primary(str(tmp_path)), conflist.entry())
    files.put(f"{tmp_path}/{conflist.NAME}", ours, 0o644)
    assert (tmp_path / "10-flannel.conflist").read_bytes() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [conflist.NAME, "10-flannel.conflist"], "ours sorts first, and nothing else is left"


@pytest.mark.parametrize("copy", ["multus", "istio-cni", "tailscale-cni"])
def test_a_copy_of_another_list_is_not_the_primary(tmp_path: Path, copy: str) -> None:
    """A list that another plugin derived is not the primary CNI's list."""
    put(tmp_path, "01-copy.conflist", "flannel", copy)
    put(tmp_path, "10-flannel.conflist", "flannel")
    assert conflist.find_primary(str(tmp_path)).path.endswith("10-flannel.conflist")


def test_a_single_plugins_file_becomes_a_list(tmp_path: Path) -> None:
    """A .conf file of one plugin becomes a list, because libcni still reads such files."""
    (tmp_path / "10-old.conf").write_text('{"cniVersion": "0.4.0", "name": "old", "type": "bridge"}')
    ours = json.loads(conflist.derive(conflist.find_primary(str(tmp_path)), conflist.entry()))
    assert [plugin["type"] for plugin in ours["plugins"]] == ["bridge", "tailscale-cni"]
    assert (ours["name"], ours["cniVersion"]) == ("old", "0.4.0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ('{"name": "a", "cniVersion": "1.0.0"}', "no plugins"),
        ('{"name": "a", "cniVersion": "1.0.0", "plugins": []}', "no plugins"),
        ('{"name": "a", "cniVersion": "1.0.0", "plugins": [1]}', "no plugins"),
        ('{"cniVersion": "1.0.0", "plugins": [{"type": "x"}]}', "no name"),
        ('{"name": "a", "plugins": [{"type": "x"}]}', "0.3.0"),
        ('{"name": "a", "cniVersion": "0.2.0", "plugins": [{"type": "x"}]}', "0.3.0"),
    ],
)
def test_a_list_that_cannot_be_read_is_not_passed_over(tmp_path: Path, text: str, reason: str) -> None:
    """If the first list is unreadable, no other is used: later lists were never the cluster's network. The error gives the reason."""
    (tmp_path / "10-broken.conflist").write_text(text)
    put(tmp_path, "87-podman.conflist", "bridge")
    with pytest.raises(errors.NoPrimary, match=r"10-broken\.conflist") as caught:
        conflist.find_primary(str(tmp_path))
    assert reason in str(caught.value)


def test_without_any_list_there_is_no_primary(tmp_path: Path) -> None:
    """Without a network list, the error names the directory."""
    with pytest.raises(errors.NoPrimary, match="it has no network list"):
        conflist.find_primary(str(tmp_path / "nowhere"))


def test_removing_ours_leaves_the_primarys(tmp_path: Path) -> None:
    """Removing our list leaves the primary CNI's list. Removing it twice is no error."""
    put(tmp_path, "10-flannel.conflist", "flannel")
    (tmp_path / conflist.NAME).write_text("{}")
    assert conflist.remove(str(tmp_path))
    assert not conflist.remove(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["10-flannel.conflist"]
