"""Identities: the keys that make a node the same node, with its uid, its port, and what it was registered as.

The keys are in ``stateDir/identities/KEY``, a directory of the worker. What root knows of them is in ``KEY.json`` beside it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from ..json_fields import as_text, as_texts
from . import files, records
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
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""

    @classmethod
    def load(cls, state_dir: str, key: str) -> Identity:
        """What was saved of it; nothing but its key if nothing was.

        A file that cannot be read is set aside, and this is said: the node registers anew. Raises InputOutput.
        """
        try:
            return cls.read(state_dir, key)
        except errors.UnreadableState as e:
            place = records.set_aside(state_dir, _record(state_dir, key))
            records.warn(f"{e}; it is {place} now, and the node registers anew when its pod is added")
            return cls(key)

    @classmethod
    def read(cls, state_dir: str, key: str) -> Identity:
        """The same, but nothing is set aside. Raises UnreadableState, InputOutput."""
        path = _record(state_dir, key)
        document = files.read_json(path)
        if document is None:
            return cls(key)
        if not document:
            raise errors.UnreadableState(path=path, reason="it is empty")
        return records.decode(cls, {**document, "key": key}, parsers=PARSERS, lenient=True)

    @classmethod
    def of(cls, attachment: Attachment) -> Identity:
        """An attachment's."""
        return cls(attachment.key, attachment.uid, attachment.port, attachment.control_url, attachment.tags)

    def save(self, state_dir: str) -> None:
        """Write it down."""
        files.write(_record(state_dir, self.key), records.encode(self))


PARSERS = {
    "uid": records.number(0, 2**32 - 2),
    "port": records.number(0, 2**16 - 1),
    "name": as_text,
    "addresses": as_texts,
}


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
    """Write down what an attachment is. Keys that are for something else are removed first; returns what was known of them.

    A kept identity must not keep a tag that was taken away, and one control plane must not see another one's keys.
    """
    known, wanted = Identity.load(attachment.state_dir, attachment.key), Identity.of(attachment)
    if (known.control_url, set(known.tags)) != (wanted.control_url, set(wanted.tags)):
        files.remove_tree(attachment.identity_dir)
        kubeconfig = known.kubeconfig or attachment.kubeconfig
        wanted = wanted._replace(kubeconfig=kubeconfig, version=known.version, unknown=known.unknown)
        wanted.save(attachment.state_dir)
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
    files.clear(_record(state_dir, old.key))


def forget(state_dir: str, identity: Identity) -> None:
    """Leave nothing of it: keys, record, claims; those of a uid or port that is not known (0) are looked for."""
    files.remove_tree(directory(state_dir, identity.key))
    Claims(state_dir, "port").release(identity.key, identity.port)
    Claims(state_dir, "uid").release(identity.key, identity.uid)
    files.clear(_record(state_dir, identity.key))


def _record(state_dir: str, key: str) -> str:
    return f"{directory(state_dir, key)}.json"
