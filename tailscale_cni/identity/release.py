"""Releasing identities to the cluster, after the processes that used them have ended.

A release is first queued on disk (``state.releases``) and retried until it succeeds, because the Kubernetes API may be down. Until then,
no other host can lease the identity, and this disk may have the only copy of its newest keys.
"""

from __future__ import annotations

import contextlib
import os
import time
from enum import Enum
from typing import TYPE_CHECKING

from .. import errors, linux
from ..devices import deletions, delivery
from ..devices.delivery import DELIVERY_TIMEOUT
from ..state import identities
from ..state.attachments import Attachments
from ..state.claims import Claims
from ..state.hostnames import Hostname
from ..state.identities import Identity
from ..state.outbox import Outbox
from ..state.releases import Release, Releases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..kube.client import Api
    from ..state.attachments import Attachment
    from .secret_store import Entry, Holder, Record


API_TIMEOUT = 5.0
"""Seconds for one call of the Kubernetes API."""

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that is delivering the releases."""

DEL_TIMEOUT = 1.0
"""Seconds that a DEL waits for the delivery of its release."""

STALE_STATUS = 600.0
"""Seconds after a boot in which the status of the host's Node may still be from the previous boot."""


class Outcome(Enum):
    """The result of an attempt to deliver a release."""

    DONE = "done"
    BUSY = "busy"
    """Another process is delivering the release."""
    LATER = "later"
    """The release stays queued for the next attempt."""


def queue(attachment: Attachment, key: str, kubeconfig: str) -> None:
    """Queue the release of an identity. An empty ``kubeconfig`` means that it is only on this disk, so there is nothing to release."""
    if kubeconfig:
        release = Release(key, kubeconfig, attachment.namespace, attachment.name)
        Releases(attachment.state_dir).post(release)


def queue_deletion(attachment: Attachment, identity: Identity) -> None:
    """Queue the deletion of an identity from the cluster, and then of its device from the tailnet."""
    release = Release(
        identity.key,
        identity.kubeconfig,
        attachment.namespace,
        attachment.name,
        delete=True,
        deletion=deletions.deletion_of(attachment, identity),
    )
    Releases(attachment.state_dir).post(release)


def clear_pending(attachment: Attachment) -> None:
    """Drop the release that was queued before ADD took the lease. The attachment is on disk now, and its end queues a release again."""
    Releases(attachment.state_dir).done(attachment.identity)


def deliver_now(state_dir: str, ended: list[Attachment]) -> None:
    """Deliver all releases in a child, and wait a moment for it, so that a pod that moves to another host finds its identity free.

    The releases of the ``ended`` pods come first, because another process may be busy with the rest for a long time.
    """

    def make() -> bytes:
        hostnames = {(one.namespace, one.name) for one in ended}
        if sum(deliver_of_hostname(state_dir, *hostname) for hostname in hostnames):
            time.sleep(delivery.MIN_PAUSE)
        left = deliver(state_dir)
        deletions.deliver_soon(state_dir)
        return b"%d" % left

    if any(Releases(state_dir).all()):
        linux.run_bounded(make, DEL_TIMEOUT, int(2 * DELIVERY_TIMEOUT))


def deliver_soon(state_dir: str) -> None:
    """Deliver all releases in a detached child."""
    if any(Releases(state_dir).all()):
        linux.detach(lambda: _deliver_all(state_dir))


def remind(state_dir: str) -> None:
    """If a release has not been tried for a minute, try all once in a detached child. This serves hosts that get no other calls."""
    if Releases(state_dir).waiting(DELIVERY_TIMEOUT):
        linux.detach(lambda: _deliver_all(state_dir, 0))


def _deliver_all(state_dir: str, seconds: float = DELIVERY_TIMEOUT) -> None:
    """Deliver the releases, and then the deletions that they allow."""
    deliver(state_dir, seconds)
    deletions.deliver(state_dir, seconds)


def deliver(state_dir: str, seconds: float = DELIVERY_TIMEOUT) -> int:
    """Deliver all releases, with retries for ``seconds``, unless another process is doing so. Returns how many are left."""
    releases = Releases(state_dir)
    return delivery.deliver(
        releases.root,
        "the releases",
        lambda: _count_left(state_dir, releases.all()),
        seconds,
        patience=LOCK_TIMEOUT,
    )


def deliver_of_hostname(state_dir: str, namespace: str, name: str) -> int:
    """Deliver the releases of one hostname. A killed ADD of the same pod may have left one. Returns how many are left."""
    ours = (one for one in Releases(state_dir).all() if (one.namespace, one.name) == (namespace, name))
    return _count_left(state_dir, ours)


def _count_left(state_dir: str, releases: Iterable[Release]) -> int:
    return sum(make(state_dir, release) is Outcome.LATER for release in releases)


def make(state_dir: str, release: Release) -> Outcome:
    """Release one identity to the cluster, and remove it from this disk."""
    releases = Releases(state_dir)
    hold = releases.hold(release.key)
    if hold is None:
        return Outcome.BUSY
    release = releases.get(release.key) or release  # it may have been replaced meanwhile
    try:
        identity, name = Identity.load(state_dir, release.key), _name(state_dir, release)
        if _is_in_use(name, release.key):
            releases.done(release.key)
            return Outcome.DONE
        for uid in [identity.uid] if identity.uid else Claims(state_dir, "uid").held_by(release.key):
            if linux.is_uid_in_use(uid):
                raise errors.Busy(what=f"user ID {uid}", seconds=0)
        is_free = _tell_cluster(name, release, identity)
        if release.deletion and is_free:
            Outbox(state_dir).add(release.deletion)
        identities.forget(state_dir, identity)
        releases.done(release.key)
    except (errors.Error, OSError) as e:
        releases.postpone(release.key)
        os.write(
            2, f"the identity {release.name} of {release.namespace} cannot be given back yet: {e}\n".encode()
        )
        return Outcome.LATER
    finally:
        os.close(hold)
    return Outcome.DONE


def _name(state_dir: str, release: Release) -> Hostname:
    return Hostname(Attachments(state_dir), release.namespace, release.name)


def _is_in_use(name: Hostname, key: str) -> bool:
    """Whether a pod of this host has the identity. Then the release is from an ADD that was killed after it had recorded the pod."""
    with name.locked():
        return any(holder.identity == key for holder in name.holders().values())


def is_known(name: Hostname, key: str) -> bool:
    """Whether a pod of this host has an identity or is about to, or its release is queued."""
    if Releases(name.store.state_dir).is_there(key):  # the release is removed when the pod is recorded
        return True
    with name.locked():
        return any(
            key in (name.retained(number), one.identity, *one.former)
            for number, one in name.holders().items()
        )


def _tell_cluster(name: Hostname, release: Release, identity: Identity) -> bool:
    """Save the newest keys to the cluster and drop this host as their holder. An identity that another host holds is left alone.

    Returns whether no host holds it now. Raises KubernetesFailed, also while other hosts change the Secret all the time.
    """
    from ..kube.client import Conflict
    from ..state import node_files
    from ..state.host import host_id
    from .secret_store import TRIES, Holder, SecretStore, held_as

    state_dir = name.store.state_dir
    store = SecretStore(cluster_api(release.kubeconfig), release.namespace, release.name)
    ours = Holder("", "", host_id(state_dir), "", release.key)
    identity_id = release.deletion.node_id if release.deletion else ""
    for _ in range(TRIES):
        entries = store.entries()
        entry = held_as(entries, ours)
        if entry and entry.holder and is_copy(store.api, entry.holder):
            entry = None
        _take_out_of_reach(name, release.key)
        if entry is None:  # it was released before, or another host holds it
            return not any(one is None or one.record.node_id == identity_id for one in entries.values())
        local = node_files.read(identities.directory(state_dir, release.key))
        if local:
            entry = entry._replace(files=local, record=updated_record(entry, identity))
        with contextlib.suppress(Conflict):
            if release.delete or not entry.files:
                store.delete(entry)
            else:
                store.save(entry._replace(holder=None, released_by=entry.holder))
            return True
    raise errors.KubernetesFailed(
        reason=f"an identity of {release.name} was changed by others during {TRIES} attempts"
    )


def is_copy(api: Api, holder: Holder) -> bool:
    """Whether a holder with this host's ID is another host, because this disk is a copy of that host's. Its Node reports another boot.

    Raises KubernetesFailed while the Node's status may still be from the previous boot.
    """
    boot = linux.boot_id()
    node = None if holder.boot == boot else api.node(holder.node)
    if node is None or node.uid != holder.node_uid or node.boot in ("", boot):
        return False
    if time.clock_gettime(time.CLOCK_BOOTTIME) < STALE_STATUS:
        raise errors.KubernetesFailed(
            reason=f"the Node object {holder.node} does not show yet whether it is this host"
        )
    return True


def _take_out_of_reach(name: Hostname, key: str) -> None:
    """Stop retaining the identity for pods of this host, because it may be another host's after a lost answer."""
    with name.locked():
        for number, kept in name.all_retained().items():
            if kept == key:
                name.stop_retaining(number)


def updated_record(entry: Entry, identity: Identity) -> Record:
    """What the cluster should know of an identity: what this disk knows, or what the cluster knew if the disk's record was lost."""
    return entry.record if identity.is_blank else secret_record(identity)


def secret_record(identity: Identity) -> Record:
    """The record of an identity on this disk, as the cluster stores it."""
    from .secret_store import Record

    return Record(identity.control_url, identity.tags, identity.node_id, identity.node_key, identity.port)


def cluster_api(kubeconfig: str) -> Api:
    """A client of the Kubernetes API, for calls with secret answers. Raises BadKubeconfig."""
    from ..kube.client import Api
    from ..kube.kubeconfig import load

    linux.disable_core_dumps()
    return Api(load(kubeconfig), API_TIMEOUT)
