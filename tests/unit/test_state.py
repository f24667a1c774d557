"""State on the disk: attachments, claims, locks, and files that survive a crash."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tailscale_cni import errors
from tailscale_cni.state import files, records
from tailscale_cni.state.attachments import Attachment, Attachments
from tailscale_cni.state.claims import Claims


def attachment(root: Path, container_id: str = "c1", **keys: Any) -> Attachment:
    """Returns the attachment of a pod."""
    base = {"network": "net", "ifname": "eth0", "netns": "/n", "run_dir": "/run/x", "nonce": "n"}
    return Attachment(container_id=container_id, state_dir=str(root), **{**base, **keys})


@pytest.fixture
def store(tmp_path: Path) -> Attachments:
    """The attachments of a host that has none."""
    files.make_directory(str(tmp_path / "attachments"))
    return Attachments(str(tmp_path))


def save(store: Attachments, one: Attachment) -> None:
    """Write an attachment as ADD does."""
    with store.locked(one.container_id, create=True):
        store.save(one)


def test_what_was_written_is_what_is_read(store: Attachments, tmp_path: Path) -> None:
    """An attachment is read with the values and types that were written."""
    one = attachment(tmp_path, tags=("tag:a",), pod_addresses=("10.0.0.1",), uid=7, netns_cookie=2**63)
    save(store, one)
    assert store.get("net", "c1", "eth0") == one


def test_an_attachment_is_found_by_whatever_names_it(store: Attachments, tmp_path: Path) -> None:
    """An attachment is found by container and interface, whatever its network, and by the ID in its unit's name."""
    one = attachment(tmp_path, ifname="net@1")
    save(store, one)
    assert store.of_container("c1", "net@1") == [one]
    assert store.with_id(one.id) == one
    assert list(store.all()) == [one]
    assert store.of_container("c1", "eth0") == store.of_container("c2", "net@1") == []


def test_a_later_versions_record_can_be_read(store: Attachments, tmp_path: Path) -> None:
    """Unknown keys of a record are kept. Missing keys have defaults."""
    one = attachment(tmp_path)
    save(store, one)
    path = tmp_path / "attachments/c1/net@eth0.json"
    document = json.loads(path.read_text())
    del document["mtu"]
    path.write_text(json.dumps(document | {"invented": [1]}))
    found = store.get("net", "c1", "eth0")
    assert found == one._replace(unknown='{"invented":[1]}')
    store.save(found._replace(port=5))
    assert json.loads(path.read_text()) == document | {"invented": [1], "mtu": one.mtu, "port": 5}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"network": "net"}', "\0" * 100, "[" * 100_000, '{"uid": "0"}', '{"tags": [1]}'],
)
def test_a_record_that_cannot_be_read_can_still_be_unmade(
    store: Attachments, tmp_path: Path, text: str
) -> None:
    """The path of an unreadable record identifies its processes and files, so that they can be removed. A copy of the record is kept."""
    (tmp_path / "run").symlink_to("/run/x")
    first, second = attachment(tmp_path, "c1", uid=7), attachment(tmp_path, "c2")
    save(store, first)
    save(store, second)
    path = tmp_path / "attachments/c1/net@eth0.json"
    path.write_text(json.dumps(records.document(first) | json.loads(text)) if text.startswith('{"') else text)
    if "network" in text:
        path.write_text(text)
    bare, other = store.all()
    assert other == second
    assert (bare.id, bare.worker_dir, bare.uid) == (first.id, first.worker_dir, 0)
    assert (tmp_path / "unreadable/c1").read_text() == path.read_text()


def test_a_container_leaves_no_directory(store: Attachments, tmp_path: Path) -> None:
    """A container's directory is its lock, and is removed with its last attachment."""
    one = attachment(tmp_path)
    save(store, one)
    with store.locked("c1") as there:
        assert there
        store.forget(one)
    assert not (tmp_path / "attachments/c1").exists()
    with store.locked("c1") as there:
        assert not there


def test_one_call_at_a_time_for_a_container(tmp_path: Path) -> None:
    """A second call for a container waits for the first, and raises Busy after its timeout."""
    path = str(tmp_path / "c1")
    with (
        files.locked(path, 1, "container c1", create=True),
        pytest.raises(errors.Busy, match="container c1"),
        files.locked(path, 0, "container c1", create=True),
    ):
        pass


def test_who_waited_for_a_removed_container_begins_again(tmp_path: Path) -> None:
    """A call that waited for a lock on a removed directory creates it again and locks that."""
    path = tmp_path / "c1"
    got: list[bool] = []

    def wait() -> None:
        with files.locked(str(path), 10, "c1", create=True) as there:
            got.append(there and path.exists())

    with files.locked(str(path), 1, "c1", create=True):
        waiter = threading.Thread(target=wait)
        waiter.start()
        path.rmdir()
    waiter.join(10)
    assert got == [True]


def test_a_claim_is_one_holders(tmp_path: Path) -> None:
    """A claim is for the lowest free usable number. A released number is free again."""
    claims = Claims(str(tmp_path), "port")
    assert claims.take("a", (10, 12), "ports", lambda _: True) == 10
    assert claims.take("b", (10, 12), "ports", lambda number: number != 11) == 12
    with pytest.raises(errors.NothingFree, match="10 to 12"):
        claims.take("c", (10, 12), "ports", lambda number: number != 11)
    claims.release("a", 12)
    claims.release("a", 10)
    assert claims.take("c", (10, 12), "ports", lambda _: True) == 10


def test_a_claim_that_was_not_recorded_is_found_by_its_holder(tmp_path: Path) -> None:
    """If a crash lost the number of a claim, the claim is released by its holder."""
    claims = Claims(str(tmp_path), "uid")
    claims.take("a", (10, 12), "uidBase", lambda _: True)
    claims.release("a", 0)
    assert not list((tmp_path / "claims/uid").iterdir())


def test_many_claims_at_once_are_different(tmp_path: Path) -> None:
    """Concurrent claims get different numbers without a lock."""
    claims, got = Claims(str(tmp_path), "uid"), []

    def take(holder: int) -> None:
        got.append(claims.take(f"h{holder}", (0, 99), "uidBase", lambda _: True))

    threads = [threading.Thread(target=take, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 50


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A directory that is a link, a file or writable by others is rejected with the reason."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "wide").mkdir(mode=0o700)
    (tmp_path / "wide").chmod(0o770)
    (tmp_path / "file").write_text("")
    for name, reason in (("link", "symbolic link"), ("wide", "can write"), ("file", "not a directory")):
        with pytest.raises(errors.UnsafeDirectory, match=reason):
            files.make_directory(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_directory_of_another_owner_is_refused(tmp_path: Path) -> None:
    """A directory of another owner is rejected, because the owner controls its content."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 1234, 1234)
    with pytest.raises(errors.UnsafeDirectory, match="uid 1234"):
        files.make_directory(str(tmp_path / "theirs"))


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Writing a file leaves no temporary file, sets the mode and replaces a link without following it."""
    files.write(str(tmp_path / "a"), b"one")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    files.write(str(tmp_path / "b"), b"two", 0o644)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_killed_writer_left_goes_with_the_file(tmp_path: Path) -> None:
    """Removing a file also removes temporary files that killed writers left."""
    files.write(str(tmp_path / "note"), b"one")
    for name in (".note.4711~", ".notes.4711~", "other"):
        (tmp_path / name).touch()
    files.remove_with_drafts(str(tmp_path / "note"))
    files.remove_with_drafts(str(tmp_path / "gone" / "note"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.4711~", "other"]


def test_a_file_that_is_so_already_is_not_touched(tmp_path: Path) -> None:
    """A file with the same content and mode is not written again, because a runtime would reload its lists."""
    path = str(tmp_path / "new" / "list")
    assert files.put(path, b"one", 0o644)
    before = Path(path).stat()
    assert not files.put(path, b"one", 0o644)
    assert Path(path).stat().st_ino == before.st_ino
    assert files.put(path, b"on", 0o644)
    assert files.put(path, b"on", 0o600)


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    """Removing a tree follows no link, because a worker can create links in its directory."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("")
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers/link").symlink_to(tmp_path / "precious")
    files.remove_tree(str(tmp_path / "workers"))
    files.remove_tree(str(tmp_path / "workers"))
    assert (tmp_path / "precious/file").exists()


def test_a_tree_of_any_shape_is_removed(tmp_path: Path) -> None:
    """A tree that is deeper than the stack or the limit of descriptors is removed, and no link is followed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(kept)
    deepest = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deepest)
        outer, deepest = deepest, os.open("d", os.O_RDONLY, dir_fd=deepest)
        os.close(outer)
    os.symlink(kept, "link", dir_fd=deepest)
    os.close(deepest)
    files.remove_tree(str(tree))
    files.remove_tree(str(tree))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()


def test_a_directory_lets_through_whom_it_must(tmp_path: Path) -> None:
    """A stateDir with mode 0700 gets 0711, so that workers can reach their program. A directory never gets a stricter mode."""
    state = tmp_path / "state"
    state.mkdir(0o700)
    files.make_directory(str(state), 0o711)
    files.make_directory(str(state), 0o700)
    assert state.stat().st_mode & 0o777 == 0o711
