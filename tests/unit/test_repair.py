"""Repair of other pods' nodes during a call for one pod. It must not delay that call."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailscale_cni import linux
from tailscale_cni.node import repair
from tailscale_cni.state import files
from tailscale_cni.state.attachments import Attachment, Attachments


def _gone(root: Path, container_id: str) -> Attachment:
    """Record a pod that a reboot ended. Returns its attachment."""
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
    """Repair skips a container whose lock is held, without waiting, and cleans up the other ended pod."""

    def wait(seconds: float) -> None:
        pytest.fail(f"it waits {seconds} s")

    busy, idle = _gone(tmp_path, "busy"), _gone(tmp_path, "idle")
    store = Attachments(str(tmp_path))
    monkeypatch.setattr("tailscale_cni.state.files.time.sleep", wait)
    with store.locked("busy"):
        repair.others(str(tmp_path))
        assert [one.container_id for one in store.all()] == ["busy"]
    assert store.current(busy)
    assert not store.current(idle)
    assert linux.boot_id() != busy.boot_id


def test_of_what_runs_no_record_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repair reads no record of a node whose supervisor runs, so that ADD stays fast on hosts with hundreds of nodes."""
    runs = _gone(tmp_path, "runs")
    (tmp_path / "run").symlink_to(tmp_path / "processes")
    notes = tmp_path / "processes" / runs.id
    notes.mkdir(parents=True)
    (notes / "supervisor").write_text(f"{os.getpid()} {linux.start_time(os.getpid())}")
    read: list[str] = []
    monkeypatch.setattr("tailscale_cni.state.attachments.files.read_json", read.append)
    repair.others(str(tmp_path))
    assert read == []
    (notes / "supervisor").write_text(f"{os.getpid()} 0")  # a later process with the same number
    repair.others(str(tmp_path))
    assert read == [runs.record]
