"""DEL and ADD of the same container at the same time."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from tailscale_cni.cni.request import Request
from tailscale_cni.node import teardown
from tailscale_cni.state import files
from tailscale_cni.state.attachments import Attachment, Attachments
from tailscale_cni.verbs import delete
from tests.kit.wait import wait_until


def test_a_del_sees_what_an_add_records_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DEL that starts before ADD has written its record still ends the node."""
    ended: list[str] = []
    monkeypatch.setattr(teardown, "end", lambda attachment, *_: ended.append(attachment.container_id))
    files.make_directory(f"{tmp_path}/attachments")
    store = Attachments(str(tmp_path))
    request = Request(
        command="DEL",
        version="1.1.0",
        network="net",
        config={"stateDir": str(tmp_path), "configFile": f"{tmp_path}/none"},
        prev_result=None,
        annotations=None,
        valid_attachments=None,
        container_id="c1",
        ifname="eth0",
    )
    with store.locked("c1", create=True):
        waiting = threading.Thread(target=delete.run, args=(request,))
        waiting.start()
        wait_until(lambda: opened(f"{tmp_path}/attachments/c1") == 2, what="the DEL at the lock")
        store.save(
            Attachment(
                network="net",
                container_id="c1",
                ifname="eth0",
                netns="/n",
                state_dir=str(tmp_path),
                run_dir=f"{tmp_path}/run",
                nonce="n",
            )
        )
    waiting.join(30)
    assert "c1" in ended


def opened(directory: str) -> int:
    """Returns how many descriptors of this process refer to a directory."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor has been closed
            count += str(link.readlink()) == directory
    return count
