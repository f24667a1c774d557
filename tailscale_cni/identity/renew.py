"""Renewing a lease while its node runs: confirm it, update it in the cluster, and take a better number while the pod is young."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from .. import errors, linux
from ..state import identities
from ..state.attachments import Attachments
from ..state.claims import Claims
from ..state.host import host_id
from ..state.hostnames import Hostname
from ..state.identities import Identity
from ..state.releases import Release, Releases
from . import handover, release
from .lease import adopt, announce, as_identity, own_holder

if TYPE_CHECKING:
    from ..kube.client import Api
    from ..state.attachments import Attachment
    from .secret_store import Entry, SecretStore


RETRY_AFTER_FAILURE = 60.0
"""Seconds until the next renewal if the API did not answer. A host that was cut off must soon learn whether it holds its identities."""

RENEW_INTERVAL = 600.0
"""Seconds between two renewals of an identity whose number cannot improve."""


def renew(attachment: Attachment) -> float | None:
    """Renew the lease of a node whose identity is in the cluster, and take a better number if one is free.

    Returns the seconds until the next renewal, 0 if the identity is not in the cluster. Returns None if the node must change its identity,
    because another host holds the identity or because a better number was taken.
    """
    if not attachment.kubeconfig:
        return 0
    try:
        api = release.cluster_api(attachment.kubeconfig)
        if not _confirm(api, attachment):
            _note_lost(attachment)
            return None
        if _may_improve(attachment) and _improve(api, attachment):
            return None
    except errors.Error as e:
        sys.stderr.write(f"{attachment.display_name}: {e}. {e.advice}\n")
        return RETRY_AFTER_FAILURE
    return _until_next_look(attachment) if _may_improve(attachment) else RENEW_INTERVAL


def _until_next_look(attachment: Attachment) -> float:
    """Seconds until the next renewal. Higher numbers renew less often, so that all pods of a hostname together ask a few times a second."""
    return min(
        RENEW_INTERVAL,
        max(handover.seconds_to_next_look(attachment), handover.MIN_LOOK_INTERVAL * attachment.number),
    )


def _may_improve(attachment: Attachment) -> bool:
    better = attachment.number > 0 if attachment.wanted is None else attachment.number != attachment.wanted
    return better and handover.may_move(attachment)


def _secret_store(api: Api, attachment: Attachment) -> SecretStore:
    from .secret_store import SecretStore

    return SecretStore(api, attachment.namespace, attachment.name)


def _confirm(api: Api, attachment: Attachment) -> bool:
    """Whether this host still holds the identity. If so, the cluster gets the keys and the record of this disk."""
    from ..kube.client import Conflict
    from .secret_store import TRIES

    store = _secret_store(api, attachment)
    for _ in range(TRIES):
        known = store.entry(attachment.number)
        entry = known or _recreated(api, attachment)
        if entry is None or entry.holder is None:
            return entry is None  # None: the pod is gone, so nothing can be confirmed
        if (entry.holder.host, entry.holder.key) != (host_id(attachment.state_dir), attachment.key):
            return False
        if release.is_copy(api, entry.holder):
            return False
        entry = _with_local_state(api, attachment, entry)
        try:
            if entry != known:
                store.save(entry)
        except Conflict:
            continue
        return True
    raise errors.KubernetesFailed(
        reason=f"the Secret {store.shown(attachment.number)} was changed by others during each attempt"
    )


def _recreated(api: Api, attachment: Attachment) -> Entry | None:
    """A new entry for a Secret that was deleted while its pod runs; None if the pod is gone or has another identity now."""
    from .secret_store import Entry, Record

    pod = (attachment.namespace, attachment.pod, attachment.pod_uid)
    holder = own_holder(api, attachment.state_dir, *pod, attachment.key)
    current = Attachments(attachment.state_dir).current(attachment)
    is_current = current and current.identity == attachment.identity
    return Entry(attachment.number, holder, None, Record(), {}, {}) if holder and is_current else None


def _with_local_state(api: Api, attachment: Attachment, entry: Entry) -> Entry:
    """The entry with this host's current Node and boot, and with the keys and the record of this disk."""
    from ..state import node_files

    holder = entry.holder
    assert holder is not None  # noqa: S101 - for types
    node = api.node(holder.node)
    entry = entry._replace(
        holder=holder._replace(node_uid=node.uid if node else holder.node_uid, boot=linux.boot_id())
    )
    local = node_files.read(attachment.identity_dir)
    if not local:
        return entry
    identity = Identity.load(attachment.state_dir, attachment.key)
    return entry._replace(files=local, record=release.updated_record(entry, identity))


def _note_lost(attachment: Attachment) -> None:
    """Record that nothing may run with this identity on this host. The supervisor then ends the node and restarts (``discard_lost``)."""
    sys.stderr.write(
        f"{attachment.display_name}: another host has taken over the identity {attachment.hostname}, because this host's Node object was "
        "deleted or tainted out-of-service. The node is stopped on this host\n"
    )
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current and current.identity == attachment.identity:
            store.save(current._replace(lost=True))


def discard_lost(attachment: Attachment) -> None:
    """Remove the keys of a lost identity. Its processes must have ended."""
    name = Hostname.of(attachment)
    with name.locked():
        if name.retained(attachment.number) == attachment.identity:
            name.stop_retaining(attachment.number)
    identities.forget(attachment.state_dir, Identity.load(attachment.state_dir, attachment.identity))


def _improve(api: Api, attachment: Attachment) -> bool:
    """Take the identity of a better number if one was released. Returns whether the attachment now has that identity."""
    releases, key = Releases(attachment.state_dir), os.urandom(8).hex()
    name, wanted = Hostname.of(attachment), attachment.wanted
    holder = own_holder(
        api, attachment.state_dir, attachment.namespace, attachment.pod, attachment.pod_uid, key
    )
    if holder is None:
        return False
    hold = announce(releases, Release(key, attachment.kubeconfig, attachment.namespace, attachment.name))
    try:
        with name.locked():
            local = sorted(name.holders())
        below = attachment.number if wanted is None else 0
        has = partial(release.is_known, name)
        taken = _secret_store(api, attachment).take(holder, wanted, local, below=below, has=has)
        if taken is None:
            releases.done(key)
            return False
        return _move_to(attachment, key, taken.entry)
    finally:
        os.close(hold)


def _move_to(attachment: Attachment, key: str, entry: Entry) -> bool:
    """Give the attachment the number and the identity of an entry. After a crash in between, the queued release returns the identity."""
    state_dir, number = attachment.state_dir, entry.number
    name = Hostname.of(attachment)
    adopt(
        state_dir,
        name,
        number,
        as_identity(key, entry.record._asdict(), attachment.kubeconfig),
        dict(entry.files),
    )
    store = Attachments(state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None or current.identity != attachment.identity:
            return False
        known = Identity.load(state_dir, key)
        uid = known.uid or Claims(state_dir, "uid").take(key, current.worker_uids, "uidBase", lambda _: True)
        known = known._replace(uid=uid, port=known.port or _port(current, key, entry.record.port))
        known.save(state_dir)
        with name.locked():
            if number in name.holders():
                return False
            name.retain(number, key)
            name.give(number, current)
        Releases(state_dir).done(key)
    return True


def _port(attachment: Attachment, key: str, preferred: int) -> int:
    """The identity's last UDP port, if it is free on this host; else the attachment's port."""
    ports = Claims(attachment.state_dir, "port")
    with contextlib.suppress(errors.NothingFree):
        return ports.take(
            key, (preferred, preferred), "ports", lambda port: port > 0 and linux.is_udp_port_free(port)
        )
    ports.hand_on(attachment.key, attachment.port, key)
    known = Identity.load(attachment.state_dir, attachment.key)
    known._replace(port=0).save(attachment.state_dir)
    return attachment.port
