"""Pods that were added before the installation, found in libcni's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni.config import load_config
from tailscale_cni.install import unenrolled

ENABLED = {"tailscale.com/enabled": "true"}


def note(root: Path, pod: str, annotations: Any, *, namespace: str = "default", **changes: Any) -> None:
    """Write a cache entry as libcni does (cachedInfo)."""
    directory = root / unenrolled.CACHE_DIR.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    (root / "run/netns").mkdir(parents=True, exist_ok=True)
    (root / "run/netns/there").touch()
    document = {
        "kind": "cniCacheV1",
        "containerId": f"c0{pod}",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", pod]],
        "capabilityArgs": {unenrolled.ANNOTATIONS: annotations},
        "result": {"interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/var/run/netns/there"}]},
    }
    (directory / f"net-c0{pod}-eth0").write_text(json.dumps(document | changes), encoding="utf-8")


def waiting(root: Path, **config: Any) -> list[str]:
    """Returns the pods that must be restarted to become nodes, on a host with this root directory and configuration."""
    return unenrolled.waiting(load_config({"configFile": "/dev/null", **config}), str(root))


def test_those_that_ask_and_run_are_waiting(tmp_path: Path) -> None:
    """Running pods that should be nodes are listed. Pods that refuse, are nodes, or ended with a reboot are not."""
    note(tmp_path, "asks", ENABLED)
    note(tmp_path, "silent", None, namespace="media")
    note(tmp_path, "refuses", {"tailscale.com/enabled": "false"}, namespace="media")
    note(tmp_path, "mistaken", {"tailscale.com/enabled": "yes"})
    note(tmp_path, "ended", ENABLED, result={"interfaces": [{"sandbox": "/var/run/netns/gone"}]})
    note(tmp_path, "node", ENABLED)
    (tmp_path / "var/lib/tailscale-cni/attachments/c0node").mkdir(parents=True)
    assert waiting(tmp_path) == ["default/asks", "default/mistaken"]
    media = {"media": {"tailscale.com/enabled": "true"}}
    assert waiting(tmp_path, namespaces=media) == ["default/asks", "default/mistaken", "media/silent"]
    assert waiting(tmp_path, enroll="all", excludeNamespaces=["default"])[-1] == "media/silent"


@pytest.mark.parametrize(
    "changes",
    [
        {"containerId": "../../../etc"},
        {"containerId": None},
        {"cniArgs": None},
        {"cniArgs": [["K8S_POD_NAME"], "K8S_POD_NAMESPACE", 7, ["a", "b", "c"]]},
        {"cniArgs": [["K8S_POD_NAMESPACE", "a/b"], ["K8S_POD_NAME", "x"]]},
        {"capabilityArgs": []},
        {"capabilityArgs": {unenrolled.ANNOTATIONS: [ENABLED]}},
        {"capabilityArgs": {unenrolled.ANNOTATIONS: {"tailscale.com/enabled": 1}}},
        {"result": None},
        {"result": {"interfaces": [{"sandbox": 7}, None]}},
    ],
)
def test_a_note_that_is_none_is_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Invalid cache entries are skipped, and the others are read."""
    note(tmp_path, "odd", ENABLED, **changes)
    note(tmp_path, "asks", ENABLED)
    (tmp_path / unenrolled.CACHE_DIR.lstrip("/") / "broken").write_text("{")
    (tmp_path / unenrolled.CACHE_DIR.lstrip("/") / "directory").mkdir()
    assert waiting(tmp_path) == ["default/asks"]


def test_a_host_without_notes_has_none(tmp_path: Path) -> None:
    """A host without libcni's cache has no such pods."""
    assert waiting(tmp_path) == []
