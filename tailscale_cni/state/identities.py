"""Identities: the keys that make a node the same node, and what goes with them: a uid, a port, what it was registered as.

The keys are in a directory of the worker's own; what root knows of them is in a file beside it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from ..json_fields import as_text, as_texts
from . import files
from .claims import Claims

if TYPE_CHECKING:
    from .attachments import Attachment


class Identity(NamedTuple):
    """What is known of a node that outlives its pods. ``uid`` and ``port`` are claimed in its name."""

    key: str
    uid: int = 0
    port: int = 0
    control_url: str = ""
    tags: tuple[str, ...] = ()
    node_id: str = ""
    node_key: str = ""
    kubeconfig: str = ""
    """What gives access to the cluster that has it, too, and lets this host hold it; empty: it is on this disk alone."""
    name: str = ""
    """What the control plane called it, with the domain, when it was last asked; for people, as are ``addresses``."""
    addresses: tuple[str, ...] = ()

    @classmethod
    def load(cls, state_dir: str, key: str) -> Identity:
        """What was saved of it; nothing but its key if nothing was. Raises UnreadableState."""
        document = files.read_json(_record(state_dir, key)) or {}
        uid, port, tags = (document.get(name) for name in ("uid", "port", "tags"))
        url, node_id, node_key = (document.get(name) for name in ("control_url", "node_id", "node_key"))
        kubeconfig = document.get("kubeconfig")
        return cls(
            key,
            uid if isinstance(uid, int) else 0,
            port if isinstance(port, int) else 0,
            url if isinstance(url, str) else "",
            tuple(map(str, tags)) if isinstance(tags, list) else (),
            node_id if isinstance(node_id, str) else "",
            node_key if isinstance(node_key, str) else "",
            kubeconfig if isinstance(kubeconfig, str) else "",
            as_text(document.get("name")),
            as_texts(document.get("addresses")),
        )

    @classmethod
    def of(cls, attachment: Attachment) -> Identity:
        """An attachment's."""
        return cls(attachment.key, attachment.uid, attachment.port, attachment.control_url, attachment.tags)

    def save(self, state_dir: str) -> None:
        """Write it down."""
        files.write_json(_record(state_dir, self.key), self._asdict())


def is_registered(state_dir: str, key: str) -> bool:
    """Whether a node has keys: then it needs no auth key to be the same node again."""
    return os.path.exists(f"{directory(state_dir, key)}/tailscaled.state")


def directory(state_dir: str, key: str) -> str:
    """Where its keys are."""
    return f"{state_dir}/identities/{key}"


def make(attachment: Attachment) -> None:
    """The directory of a node's keys, the worker's alone; with what is kept in it, if it had another uid."""
    path, uid = attachment.identity_dir, attachment.uid
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if os.lstat(path).st_uid == uid:
        return
    for _, directories, names, fd in os.fwalk(path, follow_symlinks=False):
        for name in (*directories, *names):
            os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, uid, follow_symlinks=False)


def fit(attachment: Attachment) -> Identity | None:
    """Write down what an attachment is. Keys that are for something else are no use to it: they go first, and are returned.

    A kept identity must not keep a tag that was taken away, nor one control plane's keys be shown to another.
    """
    known, wanted = Identity.load(attachment.state_dir, attachment.key), Identity.of(attachment)
    if (known.control_url, set(known.tags)) != (wanted.control_url, set(wanted.tags)):
        files.remove_tree(attachment.identity_dir)
        wanted._replace(kubeconfig=known.kubeconfig).save(attachment.state_dir)
        return known
    wanted = known._replace(uid=wanted.uid, port=wanted.port)
    if wanted != known:
        wanted.save(attachment.state_dir)
    return None


def last_used(state_dir: str, key: str) -> float:
    """When a pod of it ended, in seconds since the epoch; 0 if nobody knows."""
    try:
        return os.stat(_record(state_dir, key)).st_mtime
    except OSError:
        return 0.0


def note_use(state_dir: str, key: str) -> None:
    """A pod of it ends now."""
    with contextlib.suppress(OSError):
        os.utime(_record(state_dir, key))


def rename(state_dir: str, old: Identity, new: Identity) -> None:
    """Let an identity that no process has, have another key."""
    new.save(state_dir)
    os.rename(directory(state_dir, old.key), directory(state_dir, new.key))
    Claims(state_dir, "uid").hand_on(old.key, old.uid, new.key)
    Claims(state_dir, "port").hand_on(old.key, old.port, new.key)
    files.remove(_record(state_dir, old.key))


def forget(state_dir: str, identity: Identity) -> None:
    """Leave nothing of it: keys, record, claims; those of a uid or port that is not known (0) are looked for."""
    files.remove_tree(directory(state_dir, identity.key))
    Claims(state_dir, "port").release(identity.key, identity.port)
    Claims(state_dir, "uid").release(identity.key, identity.uid)
    files.remove(_record(state_dir, identity.key))


def _record(state_dir: str, key: str) -> str:
    return f"{directory(state_dir, key)}.json"
