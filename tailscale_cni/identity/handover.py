"""Handing over hostnames: ADD takes a number and keys, DEL hands them over, so that a rollout ends with the hostname it began with.

A rolling update adds the new pod before it deletes the old one, so the new node is called ``plex-1``. When the old pod is deleted, its
number goes to the heir: the young pod of the same hostname with the worst number. This is on disk before the old record is removed. The
heir's supervisor is then woken, and its ``sync`` applies the new assignment. A restart of the supervisor applies the assignment, too.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from .. import errors, linux
from ..devices import deletions
from ..policy import numbered
from ..state import identities
from ..state.attachments import LOCK_TIMEOUT, Attachments
from ..state.hostnames import Hostname
from ..state.identities import Identity
from ..worker import launch
from . import release
from .disposition import Disposition, Successor, disposition

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from .reservation import Reservation

NANOSECONDS = 1_000_000_000

MIN_LOOK_INTERVAL, MAX_LOOK_INTERVAL = 3.0, 30.0
"""Limits of the interval, in seconds, at which a young pod checks for a better number or its hostname: a tenth of the pod's age."""


def take_number(attachment: Attachment, reservation: Reservation | None = None) -> Attachment:
    """Take a number of the hostname and the keys that are retained for the number, or the reserved number and keys.

    The attachment must be on disk, and its container's lock held. Raises Busy if another pod was first.
    """
    name = Hostname.of(attachment)
    with name.locked():
        if reservation:
            return _take_reserved(name, attachment, reservation)
        number = name.take(attachment)
        attachment = _with_number(attachment, number)
        if attachment.ephemeral:
            return attachment
        kept = name.retained(number)
        # Without a reservation, keys that are also in the cluster are not this host's: they are being released.
        if not kept or Identity.load(attachment.state_dir, kept).kubeconfig:
            name.retain(number, attachment.nonce)
        return attachment._replace(identity=name.retained(number))


def _take_reserved(name: Hostname, attachment: Attachment, reservation: Reservation) -> Attachment:
    number, key = reservation.number, reservation.key
    if number in name.holders():
        raise errors.Busy(what=f"the name {numbered(attachment.name, number)}", seconds=0)
    kept = name.retained(number)
    name.retain(number, key)
    name.give(number, attachment)
    former = (kept,) if kept and kept != key else ()
    return _with_number(attachment, number)._replace(
        identity=key, kubeconfig=reservation.kubeconfig, former=former
    )


def dispose_of_former(store: Attachments, attachment: Attachment) -> Attachment:
    """Delete or release the identities that the attachment had. Their processes must have ended. Returns the attachment without them."""
    if not attachment.former:
        return attachment
    for key in attachment.former:
        identity = _loaded(attachment, key)
        in_cluster, deletable = bool(identity.kubeconfig), _is_deletable(attachment)
        what = disposition(in_cluster=in_cluster, deletable=deletable, successor=Successor.NONE)
        if what is Disposition.RELEASE:
            release.queue(attachment, key, identity.kubeconfig)
            continue
        if in_cluster:
            release.queue_deletion(attachment, identity)
        else:
            deletions.queue_identity(attachment, identity)
        identities.forget(store.state_dir, identity)
    attachment = attachment._replace(former=())
    store.save(attachment)
    return attachment


def hand_over(attachment: Attachment) -> None:
    """Give up the attachment's numbers at its end, each to its heir if there is one. Keys stay retained if the node was ever registered."""
    if not attachment.name:  # the record cannot be read; a number whose record is gone is free
        return
    name, woken = Hostname.of(attachment), []
    with name.locked():
        heirs = {number: _heir(name, attachment, number) for number in name.held_by(attachment)}
        for number, heir in heirs.items():
            if heir is None or heir.ephemeral:
                _queue_release(name, attachment, number)
        kept = name.retained(attachment.number)
        if kept == attachment.identity and not identities.is_registered(attachment.state_dir, kept):
            name.stop_retaining(attachment.number)
        for number, heir in heirs.items():
            if heir:
                name.give(number, heir)
                woken.append(heir)
            else:
                name.free(number)
    for heir in woken:
        wake(heir)


def _queue_release(name: Hostname, leaver: Attachment, number: int) -> None:
    """Queue the release of the cluster's identity for a number, which no pod of this host has any more."""
    kept = name.retained(number)
    if kept == leaver.identity and _is_stopgap(leaver, number):
        known = Identity.load(leaver.state_dir, kept)
        release.queue_deletion(leaver, known._replace(kubeconfig=leaver.kubeconfig))
        name.stop_retaining(number)
    elif kept == leaver.identity:  # the identity's own record may be gone
        release.queue(leaver, kept, "" if leaver.lost else leaver.kubeconfig)
    else:
        release.queue(leaver, kept, _loaded(leaver, kept).kubeconfig)


def _loaded(attachment: Attachment, key: str) -> Identity:
    """An identity that the attachment had. If its record was lost, the cluster that keeps the attachment's identities keeps it, too."""
    identity = Identity.load(attachment.state_dir, key)
    return identity._replace(kubeconfig=attachment.kubeconfig) if identity.is_blank else identity


def _is_stopgap(leaver: Attachment, number: int) -> bool:
    """Whether the pod took the number's identity from the cluster only because the number that it wanted was not free.

    No pod needs such an identity later.
    """
    is_wanted = leaver.wanted in (None, number)
    return bool(leaver.kubeconfig) and not leaver.lost and not is_wanted and _is_deletable(leaver)


def _heir(name: Hostname, leaver: Attachment, number: int) -> Attachment | None:
    """The pod of the hostname that gets the number: of the pods that want it and may still move, the pod with the worst number.

    That is the pod that was added last. It moves once, and no other pod has to move.
    """
    best: dict[Attachment, int] = {}
    for its, holder in sorted(name.holders().items()):
        best.setdefault(holder, its)
    heirs = [
        holder
        for holder, its in best.items()
        if holder.record != leaver.record
        and may_move(holder)
        and _is_better(holder, number, its)
        and _may_have(name, holder, number)
    ]
    return max(heirs, key=lambda heir: (heir.wanted == number, best[heir]), default=None)


def _is_better(attachment: Attachment, number: int, than: int) -> bool:
    return number < than if attachment.wanted is None else number == attachment.wanted


def _may_have(name: Hostname, heir: Attachment, number: int) -> bool:
    """Whether the heir may have the number. An heir with an identity in the cluster needs another one from the cluster at the number.

    The cluster's identity of one number never moves to another number.
    """
    if not heir.kubeconfig:
        return True
    return not heir.lost and bool(Identity.load(heir.state_dir, name.retained(number)).kubeconfig)


def may_move(attachment: Attachment) -> bool:
    """Whether the pod is young enough for a better number (``handoverWindow``)."""
    if launch.is_deleted(attachment):
        return False
    return attachment.boot_id == linux.boot_id() and age(attachment) < attachment.handover_window


def seconds_to_next_look(attachment: Attachment) -> float:
    """Seconds until a young pod checks again whether a better number or its hostname is free."""
    return max(MIN_LOOK_INTERVAL, min(MAX_LOOK_INTERVAL, age(attachment) / 10))


def age(attachment: Attachment) -> float:
    """Seconds since the attachment was added in this boot."""
    return (now() - attachment.since) / NANOSECONDS


def now() -> int:
    """Nanoseconds since boot, including suspended time (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wake(attachment: Attachment) -> None:
    """Have the supervisor check which identity and hostname its node should have."""
    supervisor = launch.supervisor_of(attachment)
    if supervisor:
        supervisor.signal(signal.SIGHUP)


def wake_if_reassigned(attachment: Attachment) -> None:
    """Wake the supervisor of a pod that inherited a number before its supervisor ran."""
    if len(Hostname.of(attachment).held_by(attachment)) > 1:
        wake(attachment)


def apply_assignment(attachment: Attachment, patience: float = LOCK_TIMEOUT) -> Attachment | None:
    """Give the attachment the best of its numbers. Returns the current attachment; None if it is gone.

    Its processes keep the hostname and the keys that they started with. If the record has others, the processes must restart.
    Raises Busy if another call holds the container's lock for longer than ``patience``, in seconds.
    """
    store, woken = Attachments(attachment.state_dir), []
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current is None:
            return None
        name = Hostname.of(current)
        with name.locked():
            held = name.held_by(current)
            number = current.wanted if current.wanted in held else min(held, default=current.number)
            if number != current.number:
                current = _move(name, current, number)
                store.save(current)
                launch.forget_notes(current)
            for other in held:
                if other != number:
                    current, heir = _give_up(store, name, current, other)
                    woken += [heir] if heir else []
    for heir in woken:
        wake(heir)
    return current


def _move(name: Hostname, attachment: Attachment, number: int) -> Attachment:
    """The attachment with another number, and with the keys that are retained for that number, or else its own keys."""
    moved = _with_number(attachment, number)
    if attachment.ephemeral:
        return moved
    known = Identity.load(attachment.state_dir, name.retained(number))
    if not known.uid:
        name.retain(number, attachment.identity)
        return moved
    return moved._replace(identity=known.key, uid=known.uid, port=known.port, kubeconfig=known.kubeconfig)


def _give_up(
    store: Attachments, name: Hostname, attachment: Attachment, number: int
) -> tuple[Attachment, Attachment | None]:
    """Give up a number that the attachment does not need. Returns the changed attachment and the heir of the number.

    Keys that no pod should have are recorded in ``former``, until the processes that use them have ended (``dispose_of_former``).
    """
    heir, key = _heir(name, attachment, number), name.retained(number)
    if key and key == attachment.identity:
        name.stop_retaining(number)  # the keys are retained for the better number now
    elif key and (key in attachment.former or not _stays(attachment, key, heir)):
        attachment = attachment._replace(former=tuple(dict.fromkeys((*attachment.former, key))))
        store.save(attachment)
        name.stop_retaining(number)
    if heir:
        name.give(number, heir)
    else:
        name.free(number)
    return attachment, heir


def _stays(attachment: Attachment, key: str, heir: Attachment | None) -> bool:
    """Whether the keys stay with the number that the attachment gives up."""
    successor = (
        Successor.NONE if heir is None else Successor.EPHEMERAL if heir.ephemeral else Successor.LASTING
    )
    in_cluster = bool(Identity.load(attachment.state_dir, key).kubeconfig)
    what = disposition(in_cluster=in_cluster, deletable=_is_deletable(attachment), successor=successor)
    return what is Disposition.KEEP


def _is_deletable(attachment: Attachment) -> bool:
    """Whether the device of an identity that the pod gave up can be deleted: there is an API, and the node is not ephemeral."""
    return not attachment.ephemeral and attachment.minter != "static"


def drop_mismatched_keys(attachment: Attachment) -> None:
    """Remove retained keys that were registered with other tags or at another control plane, and queue the deletion of their device."""
    if attachment.identity:
        mismatched = identities.fit(attachment)
        if mismatched:
            deletions.queue_identity(attachment, mismatched)


def _with_number(attachment: Attachment, number: int) -> Attachment:
    return attachment._replace(number=number, hostname=numbered(attachment.name, number))
