"""The node key in a node's state. A worker cannot claim another node's key."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailscale_cni.devices import deletions, known
from tailscale_cni.state import node_files, node_keys
from tailscale_cni.state.outbox import Outbox
from tailscale_cni.worker.localapi import Node

from .test_hostnames import Host

PRIVATE = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
"""Bob's keys in RFC 7748, section 6.1."""


def state(secret: str) -> bytes:
    """Returns a state file as tsnet writes it."""
    prefs = base64.b64encode(json.dumps({"Config": {"PrivateNodeKey": secret}}).encode()).decode()
    profile = base64.b64encode(b"profile-1a2b").decode()
    return json.dumps({"_current-profile": profile, "profile-1a2b": prefs}).encode()


def test_a_node_key_is_that_of_the_nodes_own_state(tmp_path: Path) -> None:
    """The node key is derived from the private key in the state. The keys are the example of RFC 7748."""
    assert node_keys.of(str(tmp_path)) == ""
    (tmp_path / node_files.STATE).write_bytes(state(f"privkey:{PRIVATE}"))
    assert node_keys.of(str(tmp_path)) == f"nodekey:{PUBLIC}"


@pytest.mark.parametrize("secret", ["", "privkey:", "privkey:00", f"privkey:{PRIVATE}00", "nodekey:zz"])
def test_what_is_no_key_is_none(secret: str) -> None:
    """An invalid private key gives no node key, because a worker can write any state."""
    assert node_keys.in_state(state(secret)) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.sampled_from(("_current-profile", "Config", "a")), x),
    max_leaves=10,
)


@given(JSON | st.binary())
def test_whatever_a_state_is_reading_it_raises_nothing(document: Any) -> None:
    """Reading a state of any JSON or any bytes raises no exception."""
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    assert node_keys.in_state(content) == ""


def test_a_worker_has_nobody_elses_device_deleted(tmp_path: Path) -> None:
    """A worker that claims another device's ID and node key, which every peer knows, cannot have that device deleted."""
    host = Host(tmp_path)
    one = host.add()
    Path(one.worker_dir).mkdir(parents=True)
    Path(one.identity_dir, node_files.STATE).write_bytes(state(f"privkey:{PRIVATE}"))
    own = Node("Running", "web.tail", (), online=True, tags=(), node_id="n1", node_key=f"nodekey:{PUBLIC}")
    known.note(one, own._replace(node_id="laptop", node_key="nodekey:of-a-laptop"))
    deletions.queue(one)
    assert list(Outbox(str(tmp_path)).all()) == []
    known.note(one, own)
    known.note(one, own._replace(node_id="laptop", node_key="nodekey:of-a-laptop"))
    deletions.queue(one)
    assert [deletion.node_id for deletion in Outbox(str(tmp_path)).all()] == ["n1"]
