"""The device of a node, proved by its node key and noted while the node runs, so that the device can be deleted afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..state import files, node_keys
from ..state.identities import Identity

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from ..worker.localapi import Node


def note(attachment: Attachment, node: Node) -> None:
    """Note which device the node is, so that the device can be deleted after the node has ended.

    A worker cannot name another node's device (``is_its_own``).
    """
    if not node.node_id or (attachment.minter == "static" and not attachment.identity):
        return
    words = f"{node.node_id} {node.node_key}\n"
    if files.read(note_path(attachment)) != words and not is_its_own(attachment, node):
        return
    if attachment.minter != "static":
        files.write_volatile(note_path(attachment), words.encode())
    if attachment.identity:
        known = Identity.load(attachment.state_dir, attachment.key)
        if known.is_blank:
            known = Identity.of(attachment)._replace(kubeconfig=attachment.kubeconfig)
        now = known._replace(
            node_id=node.node_id,
            node_key=node.node_key,
            name=node.name,
            addresses=tuple(map(str, node.addresses)),
        )
        if now != known:
            now.save(attachment.state_dir)


def is_its_own(attachment: Attachment, node: Node) -> bool:
    """Whether the worker's state has the private half of the node key that the worker reports."""
    return bool(node.node_key) and node.node_key == node_keys.of(attachment.identity_dir)


def forget(attachment: Attachment) -> None:
    """Drop the note: the node has logged out, or its device is gone."""
    files.remove(note_path(attachment))


def note_path(attachment: Attachment) -> str:
    """The file in ``runDir`` with the node ID and the node key of an attachment's device."""
    return f"{attachment.worker_dir}/node"
