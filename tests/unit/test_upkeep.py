"""Repair that rides on another pod's call: it must not keep that pod waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailscale_cni import linux
from tailscale_cni.state import files
from tailscale_cni.state.attachments import Attachment, Attachments
from tailscale_cni.verbs import upkeep


def _gone(root: Path, container_id: str) -> Attachment:
    """The record of a pod that a reboot ended."""
    attachment = Attachment(
        network="net",
        container_id=container_id,
        ifname="eth0",
        netns="/nowhere",
        state_dir=str(root),
        run_dir=f"{root}/run",
        nonce="n",
        boot_id="of-before",
        namespace="default",
        name=container_id,
    )
    files.make_directory(f"{root}/attachments")
    files.make_directory(f"{root}/names")
    store = Attachments(str(root))
    with store.locked(container_id, create=True):
        store.save(attachment)
    return attachment


def test_what_somebody_else_is_at_is_left_to_him(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a dead pod's container is held: nobody waits for it, and the other dead pod is cleaned up after."""

    def wait(seconds: float) -> None:
        pytest.fail(f"it waits {seconds} s")

    busy, idle = _gone(tmp_path, "busy"), _gone(tmp_path, "idle")
    store = Attachments(str(tmp_path))
    monkeypatch.setattr("tailscale_cni.state.files.time.sleep", wait)
    with store.locked("busy"):
        upkeep.revive(str(tmp_path))
        assert [one.container_id for one in store.all()] == ["busy"]
    assert store.current(busy)
    assert not store.current(idle)
    assert linux.boot_id() != busy.boot_id
