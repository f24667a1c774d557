"""Who has which name and which keys: taken at ADD, handed over at DEL, so that a rollout ends with the name that it began with.

The new pod of a rolling update is added before the old one is deleted, so it becomes ``plex-1``. When the old one goes, its
number is given to the young pod of the name that has the worst one: that is on the disk before the old one's record is removed.
The heir's supervisor is then woken, and asks ``settle`` what to be; so does whoever starts it again.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from .. import errors, linux
from ..policy import numbered
from ..state import identities
from ..state.attachments import LOCK_SECONDS, Attachments
from ..state.hostnames import Name
from ..state.identities import Identity
from ..worker import launch
from . import devices, returns

if TYPE_CHECKING:
    from ..state.attachments import Attachment
    from .custody import Reservation

SECOND = 1_000_000_000

SOONEST, LATEST = 3.0, 30.0
"""How often a young pod looks whether its better number, or its name, is free: a tenth of its age, within these seconds."""


def enter(attachment: Attachment, reservation: Reservation | None = None) -> Attachment:
    """Take a number, and the keys that are kept for it: those that are reserved, if any are.

    The attachment is on the disk, and its container's lock is held. Raises Busy if others were first.
    """
    name = Name.of(attachment)
    with name.locked():
        if reservation:
            return _enter_as_reserved(name, attachment, reservation)
        number = name.take(attachment)
        attachment = _at(attachment, number)
        if attachment.ephemeral:
            return attachment
        kept = name.kept(number)
        if (
            not kept or Identity.load(attachment.state_dir, kept).kubeconfig
        ):  # the cluster's: it is given back
            name.keep(number, attachment.nonce)
        return attachment._replace(identity=name.kept(number))


def _enter_as_reserved(name: Name, attachment: Attachment, reservation: Reservation) -> Attachment:
    number, key = reservation.number, reservation.key
    if number in name.holders():
        raise errors.Busy(what=f"the name {numbered(attachment.name, number)}", seconds=0)
    kept = name.kept(number)
    name.keep(number, key)
    name.give(number, attachment)
    former = (kept,) if kept and kept != key else ()
    return _at(attachment, number)._replace(identity=key, kubeconfig=reservation.kubeconfig, former=former)


def shed(store: Attachments, attachment: Attachment) -> Attachment:
    """Leave nothing of the identities that the attachment had. No process has them any more."""
    if not attachment.former:
        return attachment
    for key in attachment.former:
        identity, is_left = Identity.load(store.state_dir, key), _is_left_behind(attachment)
        if not identity.kubeconfig:
            devices.owe_identity(attachment, identity)
        elif is_left:
            returns.owe_end(attachment, identity)
        else:
            returns.owe(attachment, key, identity.kubeconfig)
        if is_left or not identity.kubeconfig:
            identities.forget(store.state_dir, identity)
    attachment = attachment._replace(former=())
    store.save(attachment)
    return attachment


def leave(attachment: Attachment) -> None:
    """Give up the numbers, each to an heir if it has one. What is kept stays kept, if there is anything to keep."""
    if not attachment.name:  # it cannot be read, and a number whose record is gone is free
        return
    name, woken = Name.of(attachment), []
    with name.locked():
        heirs = {number: _heir(name, attachment, number) for number in name.held_by(attachment)}
        for number, heir in heirs.items():
            if heir is None or heir.ephemeral:
                _owe_kept(name, attachment, number)
        kept = name.kept(attachment.number)
        if kept == attachment.identity and not identities.is_registered(attachment.state_dir, kept):
            name.drop(attachment.number)
        for number, heir in heirs.items():
            if heir:
                name.give(number, heir)
                woken.append(heir)
            else:
                name.free(number)
    for heir in woken:
        wake(heir)


def _owe_kept(name: Name, leaver: Attachment, number: int) -> None:
    """Have what the cluster keeps for a number be given back: nobody of this host has it any more."""
    kept = name.kept(number)
    if kept == leaver.identity and _is_stopgap(leaver, number):
        known = Identity.load(leaver.state_dir, kept)
        returns.owe_end(leaver, known._replace(kubeconfig=leaver.kubeconfig))
        name.drop(number)
    elif kept == leaver.identity:  # whose own record can be gone by now
        returns.owe(leaver, kept, "" if leaver.lost else leaver.kubeconfig)
    else:
        returns.owe(leaver, kept, Identity.load(leaver.state_dir, kept).kubeconfig)


def _is_stopgap(leaver: Attachment, number: int) -> bool:
    """Whether the cluster's identity of a number is one that nobody wants: its pod has another one, which was not to be had."""
    is_wanted = leaver.wanted in (None, number)
    return bool(leaver.kubeconfig) and not leaver.lost and not is_wanted and _is_left_behind(leaver)


def _heir(name: Name, leaver: Attachment, number: int) -> Attachment | None:
    """The pod of the name that would be better off with the number, and may still move: the one that is worst off.

    That is who was added last while the others were there. It moves once, and nobody else has to.
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


def _may_have(name: Name, heir: Attachment, number: int) -> bool:
    """What the cluster keeps for one number is never another one's: an heir of that kind has to find keys there, and leaves its own."""
    if not heir.kubeconfig:
        return True
    return not heir.lost and bool(Identity.load(heir.state_dir, name.kept(number)).kubeconfig)


def may_move(attachment: Attachment) -> bool:
    """Whether it is young enough for a better number."""
    if launch.is_deleted(attachment):
        return False
    return attachment.boot_id == linux.boot_id() and age(attachment) < attachment.handover_window


def until_next_look(attachment: Attachment) -> float:
    """Seconds until a young pod looks again for what it should be, and another host's pod still is."""
    return max(SOONEST, min(LATEST, age(attachment) / 10))


def age(attachment: Attachment) -> float:
    """Seconds since it was added in this boot."""
    return (now() - attachment.since) / SECOND


def now() -> int:
    """Since boot, in nanoseconds, with the time that the host slept."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wake(attachment: Attachment) -> None:
    """Have the supervisor ask what its node should be by now."""
    supervisor = launch.running(attachment)
    if supervisor:
        supervisor.signal(signal.SIGHUP)


def nudge(attachment: Attachment) -> None:
    """Wake one that was given a better number before it could be woken."""
    if len(Name.of(attachment).held_by(attachment)) > 1:
        wake(attachment)


def settle(attachment: Attachment, patience: float = LOCK_SECONDS) -> Attachment | None:
    """The attachment as it should be by now, at the best of its numbers; None if it is gone. Raises Busy after ``patience`` seconds.

    Its processes are what they were: with a name or keys that are not the record's, they have to begin anew.
    """
    store, woken = Attachments(attachment.state_dir), []
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current is None:
            return None
        name = Name.of(current)
        with name.locked():
            held = name.held_by(current)
            number = current.wanted if current.wanted in held else min(held, default=current.number)
            if number != current.number:
                current = _move(name, current, number)
                store.save(current)
                launch.forget_notes(current)
            for other in held:
                if other != number:
                    current, heir = _let_go(store, name, current, other)
                    woken += [heir] if heir else []
    for heir in woken:
        wake(heir)
    return current


def _move(name: Name, attachment: Attachment, number: int) -> Attachment:
    """To another number: with the keys that are kept there, or else with its own."""
    moved = _at(attachment, number)
    if attachment.ephemeral:
        return moved
    known = Identity.load(attachment.state_dir, name.kept(number))
    if not known.uid:
        name.keep(number, attachment.identity)
        return moved
    return moved._replace(identity=known.key, uid=known.uid, port=known.port, kubeconfig=known.kubeconfig)


def _let_go(
    store: Attachments, name: Name, attachment: Attachment, number: int
) -> tuple[Attachment, Attachment | None]:
    """A number that the attachment does not need, with the keys that are kept there, is its heir's: the attachment by now, and the heir.

    If nobody waits for it, the node that it was for a while, or could have been, is left behind; or the cluster that keeps it gets it back.
    """
    heir, key = _heir(name, attachment, number), name.kept(number)
    is_left = not heir and _is_left_behind(attachment)
    is_given_back = not (heir and not heir.ephemeral) and Identity.load(attachment.state_dir, key).kubeconfig
    if key and key == attachment.identity:
        name.drop(number)  # they are at the better one by now
    elif key and (key in attachment.former or is_left or is_given_back):
        attachment = attachment._replace(former=tuple(dict.fromkeys((*attachment.former, key))))
        store.save(attachment)
        name.drop(number)
    if heir:
        name.give(number, heir)
    else:
        name.free(number)
    return attachment, heir


def _is_left_behind(attachment: Attachment) -> bool:
    """Whether a node that it was for a while is to be forgotten. Where nobody can be told to, the next pod is that one again."""
    return not attachment.ephemeral and attachment.minter != "static"


def fit(attachment: Attachment) -> None:
    """Have no keys but those that are for what the attachment is: those of an identity that is kept can be for others."""
    if attachment.identity:
        unfit = identities.fit(attachment)
        if unfit:
            devices.owe_identity(attachment, unfit)


def _at(attachment: Attachment, number: int) -> Attachment:
    return attachment._replace(number=number, hostname=numbered(attachment.name, number))
