"""Giving identities back to the cluster that keeps them (``state.vault``), when the processes that had them are dead.

What is owed is on the disk first (``state.releases``), and told as often as it takes: the API may be away. Until the vault knows, no other
host can have the identity, and the only copy of keys that it has not got yet is on this disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from .. import errors, linux
from ..devices import deletions, delivery
from ..devices.delivery import DELIVERY
from ..state import identities
from ..state.attachments import Attachments
from ..state.identities import Identity
from ..state.names import Name
from ..state.outbox import Outbox
from ..state.releases import Release, Releases

if TYPE_CHECKING:
    from ..kube import Api
    from ..state.attachments import Attachment
    from .secret_store import Holder, Record


CALL_SECONDS = 5.0

PATIENCE = 5.0
"""Seconds that one waits for another process that tells the vault."""

AT_ONCE = 1.0
"""Seconds that a DEL waits for the vault to know."""

LATE_STATUS = 600.0
"""Seconds after a boot in which the status of a host's Node may still be of the one before."""


def owe(attachment: Attachment, key: str, kubeconfig: str) -> None:
    """Write down that an identity is to be given back. Without a ``kubeconfig``, this disk alone has it."""
    if kubeconfig:
        release = Release(key, kubeconfig, attachment.namespace, attachment.name)
        Releases(attachment.state_dir).post(release)


def owe_end(attachment: Attachment, identity: Identity) -> None:
    """Write down that an identity of the cluster's is to be nobody's any more, and then its node is to be none."""
    farewell = deletions.farewell(attachment, identity)
    release = Release(
        identity.key,
        identity.kubeconfig,
        attachment.namespace,
        attachment.name,
        delete=True,
        farewell=farewell,
    )
    Releases(attachment.state_dir).post(release)


def settle(attachment: Attachment) -> None:
    """The pod that has its identity is recorded: from now on that is given back when the pod ends."""
    Releases(attachment.state_dir).done(attachment.identity)


def deliver_now(state_dir: str, ended: list[Attachment]) -> None:
    """Tell the vault in a child that goes on for a while; wait a moment for it, so that a pod that is moved finds its identity free.

    Those of the pods that have just ended come first: whoever is at the others, again and again, may be at them for long.
    """

    def tell() -> bytes:
        names = {(one.namespace, one.name) for one in ended}
        if sum(give_back_of(state_dir, *name) for name in names):
            time.sleep(delivery.A_TURN)
        left = deliver(state_dir)
        deletions.deliver_soon(state_dir)
        return b"%d" % left

    if any(Releases(state_dir).all()):
        linux.ask(tell, AT_ONCE, int(2 * DELIVERY))


def deliver_soon(state_dir: str) -> None:
    """The same, and nobody waits."""
    if any(Releases(state_dir).all()):
        linux.detach(lambda: _deliver_all(state_dir))


def remind(state_dir: str) -> None:
    """Where no other call comes by: what was not told for a minute is tried again, once."""
    if Releases(state_dir).waiting(DELIVERY):
        linux.detach(lambda: _deliver_all(state_dir, 0))


def _deliver_all(state_dir: str, seconds: float = DELIVERY) -> None:
    """And then the control plane, of what is nobody's by that."""
    deliver(state_dir, seconds)
    deletions.deliver(state_dir, seconds)


def deliver(state_dir: str, seconds: float = DELIVERY) -> int:
    """Tell the vault all that it has not been told, again and again for so long; how many are left. One process at a time does."""
    releases = Releases(state_dir)
    return delivery.deliver(
        releases.root,
        "the releases",
        lambda: sum(not give_back(state_dir, release) for release in releases.all()),
        seconds,
        patience=PATIENCE,
    )


def give_back_of(state_dir: str, namespace: str, name: str) -> int:
    """Those of one name that nobody is at: an ADD of the same pod that was killed may have left one. How many are left."""
    releases = Releases(state_dir).all()
    ours = [release for release in releases if (release.namespace, release.name) == (namespace, name)]
    return sum(not give_back(state_dir, release) for release in ours)


def give_back(state_dir: str, release: Release) -> bool:
    """Whether nothing is to be done any more, or others do it."""
    releases = Releases(state_dir)
    hold = releases.hold(release.key)
    if hold is None:
        return True
    release = releases.get(release.key) or release  # it may have been written anew meanwhile
    try:
        identity, name = Identity.load(state_dir, release.key), _name(state_dir, release)
        if _is_had(name, release.key):
            releases.done(release.key)
            return True
        if identity.uid and linux.anybody_is(identity.uid):
            raise errors.Busy(what=f"user ID {identity.uid}", seconds=0)
        is_nobodys = _tell(name, release, identity)
        if release.farewell and is_nobodys:
            Outbox(state_dir).post(release.farewell)
        identities.forget(state_dir, identity)
        releases.done(release.key)
    except (errors.Error, OSError) as e:
        releases.postpone(release.key)
        os.write(
            2, f"the identity {release.name} of {release.namespace} cannot be given back yet: {e}\n".encode()
        )
        return False
    finally:
        os.close(hold)
    return True


def _name(state_dir: str, release: Release) -> Name:
    return Name(Attachments(state_dir), release.namespace, release.name)


def _is_had(name: Name, key: str) -> bool:
    """Whether a pod of this host has it: the release was of an ADD that was killed after that was recorded."""
    with name.locked():
        return any(holder.identity == key for holder in name.holders().values())


def is_known(name: Name, key: str) -> bool:
    """Whether a pod of this host has an identity, or is about to; or it is to be given back."""
    if Releases(name.store.state_dir).is_there(key):  # it goes when the pod that has it is recorded
        return True
    with name.locked():
        return any(
            key in (name.kept(number), one.identity, *one.former) for number, one in name.holders().items()
        )


def _tell(name: Name, release: Release, identity: Identity) -> bool:
    """Whatever the vault has of an identity of ours, it is then nobody's; whether it is. One that is not ours is left alone."""
    from ..kube import Conflict
    from ..state import vault_files
    from ..state.host import host_id
    from .secret_store import TRIES, Holder, Vault, held_as

    state_dir = name.store.state_dir
    vault = Vault(api(release.kubeconfig), release.namespace, release.name)
    ours = Holder("", "", host_id(state_dir), "", release.key)
    identity_id = release.farewell.node_id if release.farewell else ""
    for _ in range(TRIES):
        entries = vault.entries()
        entry = held_as(entries, ours)
        if entry and entry.holder and is_copy(vault.api, entry.holder):
            entry = None
        _take_out_of_reach(name, release.key)
        if entry is None:  # we have said so before, or it is another host's
            return not any(one is None or one.record.node_id == identity_id for one in entries.values())
        local = vault_files.read(identities.directory(state_dir, release.key))
        if local:
            entry = entry._replace(files=local, record=record(identity))
        with contextlib.suppress(Conflict):
            if release.delete or not entry.files:
                vault.delete(entry)
            else:
                vault.save(entry._replace(holder=None, released_by=entry.holder))
            return True
    raise errors.KubernetesFailed(
        reason=f"an identity of {release.name} was changed by others during {TRIES} attempts"
    )


def is_copy(api: Api, holder: Holder) -> bool:
    """Whether a holder of this host's word is another host, of whose disk ours is a copy.

    Then its Node runs in a boot that is not ours. Raises KubernetesFailed while a Node's status may be that of the boot before.
    """
    boot = linux.boot_id()
    node = None if holder.boot == boot else api.node(holder.node)
    if node is None or node.uid != holder.node_uid or node.boot in ("", boot):
        return False
    if time.clock_gettime(time.CLOCK_BOOTTIME) < LATE_STATUS:
        raise errors.KubernetesFailed(
            reason=f"the Node object {holder.node} does not show yet whether it is this host"
        )
    return True


def _take_out_of_reach(name: Name, key: str) -> None:
    """From now on no pod of this host has it by itself: an answer that is lost may have made it another host's."""
    with name.locked():
        for number, kept in name.all_kept().items():
            if kept == key:
                name.drop(number)


def record(identity: Identity) -> Record:
    """What the vault is to know of an identity of this disk."""
    from .secret_store import Record

    return Record(identity.control_url, identity.tags, identity.node_id, identity.node_key, identity.port)


def api(kubeconfig: str) -> Api:
    """The cluster's, with little patience; what it is asked for is secret. Raises BadKubeconfig."""
    from .. import kube

    linux.leave_no_core()
    return kube.Api(kube.load(kubeconfig), CALL_SECONDS)
