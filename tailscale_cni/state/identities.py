"""Identities: a node's keys, with the worker's uid and port, and the control plane and tags with which the node registered.

The keys are in ``stateDir/identities/KEY``, a directory of the worker's. Root's record of the identity is ``KEY.json``, next to it.
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
    """The record of an identity, which can outlive its pod. ``uid`` and ``port`` are claimed under ``key``."""

    key: str
    uid: int = 0
    port: int = 0
    control_url: str = ""
    tags: tuple[str, ...] = ()
    node_id: str = ""
    node_key: str = ""
    kubeconfig: str = ""
    """The kubeconfig of the cluster that also stores the identity and leases it to this host; empty if it is only on this disk."""
    name: str = ""
    """The node's full domain name, as the control plane last reported it. This and ``addresses`` are only shown to people."""
    addresses: tuple[str, ...] = ()
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""

    @classmethod
    def load(cls, state_dir: str, key: str) -> Identity:
        """The saved identity; with only its key if none was saved.

        A file that cannot be read is set aside with a warning, and the node registers anew. Raises InputOutput.
        """
        try:
            return cls.read(state_dir, key)
        except errors.UnreadableState as e:
            place = records.set_aside(state_dir, _record(state_dir, key))
            records.warn(f"{e}; it is {place} now, and the node registers anew when its pod is added")
            return cls(key)

    @classmethod
    def read(cls, state_dir: str, key: str) -> Identity:
        """``load``, without setting a file aside. Raises UnreadableState, InputOutput."""
        path = _record(state_dir, key)
        document = files.read_json(path)
        if document is None:
            return cls(key)
        if not document:
            raise errors.UnreadableState(path=path, reason="it is empty")
        return records.decode(cls, {**document, "key": key}, parsers=PARSERS, lenient=True)

    @classmethod
    def of(cls, attachment: Attachment) -> Identity:
        """The identity of an attachment, from the attachment's own fields."""
        return cls(attachment.key, attachment.uid, attachment.port, attachment.control_url, attachment.tags)

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known of it: its record was never written, or could not be read."""
        return not (self.uid or self.control_url or self.node_id)

    def save(self, state_dir: str) -> None:
        """Write the identity to disk."""
        files.write(_record(state_dir, self.key), records.encode(self))


PARSERS = {
    "uid": records.number(0, 2**32 - 2),
    "port": records.number(0, 2**16 - 1),
    "name": as_text,
    "addresses": as_texts,
}


def is_registered(state_dir: str, key: str) -> bool:
    """Whether a node has keys. With keys, it reconnects as the same node and needs no auth key."""
    return os.path.exists(f"{directory(state_dir, key)}/tailscaled.state")


def directory(state_dir: str, key: str) -> str:
    """The directory of an identity's keys."""
    return f"{state_dir}/identities/{key}"


def make(attachment: Attachment) -> None:
    """Create the directory of a node's keys, for the worker only. If it belongs to another uid, chown it and its content."""
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
    """Record the identity of an attachment. Returns the former record if its keys had to be removed, else None.

    Keys are removed if they were registered with another control plane or other tags: a retained identity must not retain a tag that was
    taken away, and a control plane must not see the keys of another one.
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
    """When the last pod with this identity ended, in seconds since the epoch; 0 if that is unknown."""
    try:
        return os.stat(_record(state_dir, key)).st_mtime
    except OSError:
        return 0.0


def note_use(state_dir: str, key: str) -> None:
    """Record that a pod with this identity ends now."""
    with contextlib.suppress(OSError):
        os.utime(_record(state_dir, key))


def rename(state_dir: str, old: Identity, new: Identity) -> None:
    """Give an identity another key. No process may be using the identity."""
    new.save(state_dir)
    os.rename(directory(state_dir, old.key), directory(state_dir, new.key))
    Claims(state_dir, "uid").hand_on(old.key, old.uid, new.key)
    Claims(state_dir, "port").hand_on(old.key, old.port, new.key)
    files.clear(_record(state_dir, old.key))


def forget(state_dir: str, identity: Identity) -> None:
    """Remove an identity: keys, record and claims. For an unknown uid or port (0), all claims of the identity are released."""
    files.remove_tree(directory(state_dir, identity.key))
    Claims(state_dir, "port").release(identity.key, identity.port)
    Claims(state_dir, "uid").release(identity.key, identity.uid)
    files.clear(_record(state_dir, identity.key))


def _record(state_dir: str, key: str) -> str:
    return f"{directory(state_dir, key)}.json"
