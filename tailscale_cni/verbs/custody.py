"""Which host runs an identity that the cluster keeps: taken at ADD, looked after while it runs, given back when its processes are dead.

Two hosts never run one identity. So whoever may hold one writes that down first (``state.releases``), and what the vault has not been told
is told later. No lock but that of one release is held while anything waits for the API.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors, linux
from ..state import identities
from ..state.attachments import Attachments
from ..state.claims import Claims
from ..state.host import host_id
from ..state.identities import Identity
from ..state.names import Name
from ..state.releases import Release, Releases
from . import returns, succession
from .namespace import worker_uids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Pod, Request
    from ..config import Config
    from ..kube.client import Api
    from ..policy import PodIntent
    from ..state.attachments import Attachment
    from ..state.vault import Entry, Holder, Taken, Vault

PATIENCE = 5.0
"""Seconds that an ADD waits for the API, within its ``readyTimeout``."""

SHORTEST = 2.0
"""However short that is: an answer that is not waited for is wasted."""

CONFIRMATION = 2.0
"""Seconds that it waits to hear that what is at hand has not become another host's."""

OURS, ANOTHERS = b"ours", b"another's"

LONGEST = 20
"""Seconds after which a child that asks for an ADD is ended."""

AFTER_FAILURE = 60.0
"""When it looks again if the API gave no answer: a host that was cut off has to learn soon what has become of its identities."""

NOW_AND_THEN = 600.0
"""How often a node that lasts looks whether it is still its host's, and has told the vault all that it should know."""


class Reservation(NamedTuple):
    """An identity that this host holds, and nobody's on it yet; ``hold`` keeps others away from its release."""

    number: int
    key: str
    kubeconfig: str
    port: int
    hold: int


@contextlib.contextmanager
def reserved(
    request: Request, host: Config, intent: PodIntent, deadline: float
) -> Iterator[tuple[PodIntent, Reservation | None]]:
    """Hold an identity for a pod that is to last, until it is recorded (``returns.settle``); None where the host's disk has to do.

    What this host has not given back yet is taken, whether the API answers or not. If that does not say whether another host has the
    identity, the pod gets a node for itself alone; one of a StatefulSet, or one that is ``required``, is sent back. Little of this goes
    on after ``deadline`` (CLOCK_MONOTONIC). Raises IdentityUnknown.
    """
    pod = request.pod
    if pod is None or pod.namespace in host.exclude_namespaces:  # those must start with no API
        yield intent, None
        return
    name = Name(Attachments(host.state_dir), pod.namespace, intent.name)
    reservation = _at_hand(host, pod, name, intent, deadline)
    if reservation is None:
        intent, reservation = _ask_for_one(request, host, intent, name, deadline)
    try:
        yield intent, reservation
    finally:
        if reservation:
            os.close(reservation.hold)


def _at_hand(host: Config, pod: Pod, name: Name, intent: PodIntent, deadline: float) -> Reservation | None:
    """One that the host was about to give back, and still has. If that is just being done, wait for its end.

    Its Node may have been deleted meanwhile, or the disk be a copy of another host's, and that be the node: the API is asked, and if
    it does not answer, that is not so.
    """
    releases = Releases(host.state_dir)
    with name.locked():
        taken = name.holders()
        numbers = sorted(name.all_kept()) if intent.number is None else [intent.number]
        idle = [(number, name.kept(number)) for number in numbers if number not in taken]
    ours = [(number, key) for number, key in idle if key and Identity.load(host.state_dir, key).kubeconfig]
    tries = [(0.0, *one) for one in ours] + [(PATIENCE, *one) for one in ours[:1]]
    for seconds, number, key in tries:
        hold = releases.hold(key, min(seconds, linux.left(deadline)))
        if hold is None:
            continue
        if linux.ask(partial(_whose, host, pod, name, number, key), CONFIRMATION, LONGEST) != ANOTHERS:
            return Reservation(number, key, host.kubeconfig, 0, hold)
        os.close(hold)
    return None


def _whose(host: Config, pod: Pod, name: Name, number: int, key: str) -> bytes:
    """In the child: whether an identity of this disk is still this host's; nothing if the API does not say who this host is."""
    from ..state.vault import Vault

    api = returns.api(host.kubeconfig)
    ours = _holder(api, host.state_dir, pod.namespace, pod.name, pod.uid or "", key)
    if ours is None:
        return b""
    entry = Vault(api, name.namespace, name.name).entry(number)
    held = entry.holder if entry else None
    return OURS if held and held.node == ours.node and held.is_same(ours) else ANOTHERS


def _ask_for_one(
    request: Request, host: Config, intent: PodIntent, name: Name, deadline: float
) -> tuple[PodIntent, Reservation | None]:
    pod = request.pod
    assert pod is not None  # noqa: S101 - for types
    releases, key = Releases(host.state_dir), os.urandom(8).hex()
    hold = _announce(releases, Release(key, host.kubeconfig, pod.namespace, intent.name))
    with name.locked():
        taken = sorted(name.holders())
    answer = linux.ask(
        lambda: _take(host, pod, intent, key, taken),
        min(PATIENCE, linux.left(deadline, SHORTEST)),
        LONGEST,
        keep=(hold,),
    )
    found: dict[str, Any] = json.loads(answer or b"{}")
    if "number" not in found:
        os.close(hold)
        if "host" in found:
            releases.done(key)  # after a failure, who knows what the API has done
        return _without(request, host, intent, found)
    for refusal in found["refusals"][:1]:
        request.warn(f"the node has another number than it could have: {refusal}")
    number, record = found["number"], found["record"]
    contents = {name: base64.b64decode(text) for name, text in found["files"].items()}
    _adopt(host.state_dir, name, number, _identity(key, record, host.kubeconfig), contents)
    return intent, Reservation(number, key, host.kubeconfig, record["port"], hold)


def _without(
    request: Request, host: Config, intent: PodIntent, found: dict[str, Any]
) -> tuple[PodIntent, None]:
    """What a pod is that the cluster gives no identity."""
    if "host" in found:
        request.warn(f"the node's identity is kept on this host alone: {found['host']}")
        return intent, None
    why = found.get("failure", f"the Kubernetes API gives no answer within {PATIENCE:g} s")
    if intent.stateful or intent.required:
        raise errors.IdentityUnknown(pod=f"pod {request.pod}", reason=why, kubeconfig=host.kubeconfig)
    request.warn(f"the pod is a node of its own, which ends with it, and not the one that it was: {why}")
    return intent._replace(ephemeral=True), None


def _announce(releases: Releases, release: Release) -> int:
    """Write down what may have to be given back, before the vault is asked: whatever becomes of us then."""
    while True:
        releases.post(release)
        hold = releases.hold(release.key)
        if hold is not None:
            return hold


def _take(host: Config, pod: Pod, intent: PodIntent, key: str, taken: list[int]) -> bytes:
    """In the child: what was taken; or ``host``, why the host's disk has to do; or ``failure``, why nobody knows."""
    from ..state.vault import Vault

    try:
        api = returns.api(host.kubeconfig)
        holder = _holder(api, host.state_dir, pod.namespace, pod.name, pod.uid or "", key)
        if holder is None:
            return json.dumps({"host": f"the API has no pod {pod}"}).encode()
        returns.give_back_of(host.state_dir, pod.namespace, intent.name)
        has = partial(returns.is_known, Name(Attachments(host.state_dir), pod.namespace, intent.name))
        found = Vault(api, pod.namespace, intent.name).take(holder, intent.number, taken, has=has)
    except (errors.KubernetesForbids, errors.BadKubeconfig) as e:
        return json.dumps({"host": str(e)}).encode()
    except errors.Error as e:
        return json.dumps({"failure": str(e)}).encode()
    return json.dumps(_packed(found)).encode() if found else b"{}"


def _packed(taken: Taken) -> dict[str, Any]:
    return {
        "number": taken.entry.number,
        "record": taken.entry.record._asdict(),
        "files": {name: base64.b64encode(content).decode() for name, content in taken.entry.files.items()},
        "refusals": taken.refusals,
    }


def _holder(api: Api, state_dir: str, namespace: str, pod: str, uid: str, key: str) -> Holder | None:
    """This host, by the Node that the API has the pod on; None if it has no such pod."""
    from ..state.vault import Holder

    name = api.node_of(namespace, pod, uid)
    node = api.node(name) if name else None
    return Holder(name, node.uid, host_id(state_dir), linux.boot_id(), key) if node else None


def _identity(key: str, record: dict[str, Any], kubeconfig: str) -> Identity:
    """Of this disk, without a uid and a port as yet."""
    tags = tuple(record["tags"])
    return Identity(key, 0, 0, record["control_url"], tags, record["node_id"], record["node_key"], kubeconfig)


def _adopt(state_dir: str, name: Name, number: int, identity: Identity, contents: dict[str, bytes]) -> None:
    """Put what the vault had on the disk. Where it had nothing, an identity that was this host's alone becomes the cluster's."""
    from ..state import vault_files

    with name.locked():
        kept = name.kept(number)
        known = Identity.load(state_dir, kept) if kept else Identity("")
        is_ours = kept and not known.kubeconfig and number not in name.holders()
        if is_ours and not contents and identities.is_registered(state_dir, kept):
            ours = known._replace(key=identity.key, kubeconfig=identity.kubeconfig)
            identities.rename(state_dir, known, ours)  # a call that is killed here has them be given back
            name.keep(number, identity.key)
            return
    if contents:
        vault_files.write(identities.directory(state_dir, identity.key), contents)
    identity.save(state_dir)


# --- while it runs -----------------------------------------------------------------------------------------------


def attend(attachment: Attachment) -> float | None:
    """Look after a node whose identity the cluster keeps: seconds until the next time, 0 if there is none; None if it is to be another one.

    The vault gets what it has not yet. An identity that is another host's by now is lost; one of a better number, that is free, is taken.
    """
    if not attachment.kubeconfig:
        return 0
    try:
        api = returns.api(attachment.kubeconfig)
        if not _confirm(api, attachment):
            _lose(attachment)
            return None
        if _may_improve(attachment) and _improve(api, attachment):
            return None
    except errors.Error as e:
        sys.stderr.write(f"{attachment.who}: {e}. {e.advice}\n")
        return AFTER_FAILURE
    return _until_next_look(attachment) if _may_improve(attachment) else NOW_AND_THEN


def _until_next_look(attachment: Attachment) -> float:
    """The higher its number, the more others of its name look, too: together a few times a second, however many they are."""
    return min(
        NOW_AND_THEN, max(succession.until_next_look(attachment), succession.SOONEST * attachment.number)
    )


def _may_improve(attachment: Attachment) -> bool:
    better = attachment.number > 0 if attachment.wanted is None else attachment.number != attachment.wanted
    return better and succession.may_move(attachment)


def _vault(api: Api, attachment: Attachment) -> Vault:
    from ..state.vault import Vault

    return Vault(api, attachment.namespace, attachment.name)


def _confirm(api: Api, attachment: Attachment) -> bool:
    """Whether the identity is still this host's; the vault then knows what its disk has."""
    from ..kube.client import Conflict
    from ..state.vault import TRIES

    vault = _vault(api, attachment)
    for _ in range(TRIES):
        known = vault.entry(attachment.number)
        entry = known or _made_again(api, attachment)
        if entry is None or entry.holder is None:
            return entry is None  # without a pod, nothing can be said
        if (entry.holder.host, entry.holder.key) != (host_id(attachment.state_dir), attachment.key):
            return False
        if returns.is_copy(api, entry.holder):
            return False
        entry = _as_it_is(api, attachment, entry)
        try:
            if entry != known:
                vault.save(entry)
        except Conflict:
            continue
        return True
    raise errors.KubernetesFailed(
        reason=f"somebody else changes the Secret {vault.shown(attachment.number)} all the time"
    )


def _made_again(api: Api, attachment: Attachment) -> Entry | None:
    """For a Secret that somebody has deleted under a pod that is still there."""
    from ..state.vault import Entry, Record

    pod = (attachment.namespace, attachment.pod, attachment.pod_uid)
    holder = _holder(api, attachment.state_dir, *pod, attachment.key)
    current = Attachments(attachment.state_dir).current(attachment)
    is_it = current and current.identity == attachment.identity  # and has not moved to a better one meanwhile
    return Entry(attachment.number, holder, None, Record(), {}, {}) if holder and is_it else None


def _as_it_is(api: Api, attachment: Attachment, entry: Entry) -> Entry:
    """With the host's Node and boot of now, and the keys and the record that its disk has."""
    from ..state import vault_files

    holder = entry.holder
    assert holder is not None  # noqa: S101 - for types
    node = api.node(holder.node)
    entry = entry._replace(
        holder=holder._replace(node_uid=node.uid if node else holder.node_uid, boot=linux.boot_id())
    )
    local = vault_files.read(attachment.identity_dir)
    if not local:
        return entry
    return entry._replace(
        files=local, record=returns.record(Identity.load(attachment.state_dir, attachment.key))
    )


def _lose(attachment: Attachment) -> None:
    """Write down that nothing may run as this identity here. Its supervisor ends the node, and begins anew (``give_up``)."""
    sys.stderr.write(
        f"{attachment.who}: another host has the identity {attachment.hostname} by now: this host's Node was deleted, or tainted "
        "out-of-service. The node is ended\n"
    )
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current and current.identity == attachment.identity:
            store.save(current._replace(lost=True))


def give_up(attachment: Attachment) -> None:
    """Leave nothing of an identity that is lost. No process has it any more."""
    name = Name.of(attachment)
    with name.locked():
        if name.kept(attachment.number) == attachment.identity:
            name.drop(attachment.number)
    identities.forget(attachment.state_dir, Identity.load(attachment.state_dir, attachment.identity))


def _improve(api: Api, attachment: Attachment) -> bool:
    """Take the identity of a better number, if one has been given back: whether the attachment has it now."""
    releases, key = Releases(attachment.state_dir), os.urandom(8).hex()
    name, wanted = Name.of(attachment), attachment.wanted
    holder = _holder(api, attachment.state_dir, attachment.namespace, attachment.pod, attachment.pod_uid, key)
    if holder is None:
        return False
    hold = _announce(releases, Release(key, attachment.kubeconfig, attachment.namespace, attachment.name))
    try:
        with name.locked():
            local = sorted(name.holders())
        below = attachment.number if wanted is None else 0
        has = partial(returns.is_known, name)
        taken = _vault(api, attachment).take(holder, wanted, local, below=below, has=has)
        if taken is None:
            releases.done(key)
            return False
        return _move_to(attachment, key, taken.entry)
    finally:
        os.close(hold)


def _move_to(attachment: Attachment, key: str, entry: Entry) -> bool:
    """Let the attachment have it. What comes between leaves a release that says that it is to be given back."""
    state_dir, number = attachment.state_dir, entry.number
    name = Name.of(attachment)
    _adopt(
        state_dir,
        name,
        number,
        _identity(key, entry.record._asdict(), attachment.kubeconfig),
        dict(entry.files),
    )
    store = Attachments(state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None or current.identity != attachment.identity:
            return False
        known = Identity.load(state_dir, key)
        uid = known.uid or Claims(state_dir, "uid").take(key, worker_uids(current), "uidBase", lambda _: True)
        known = known._replace(uid=uid, port=known.port or _port(current, key, entry.record.port))
        known.save(state_dir)
        with name.locked():
            if number in name.holders():
                return False
            name.keep(number, key)
            name.give(number, current)
        Releases(state_dir).done(key)
    return True


def _port(attachment: Attachment, key: str, preferred: int) -> int:
    """The UDP port that the identity had, if it is free here; else the one that the attachment has."""
    from .joining import is_free

    ports = Claims(attachment.state_dir, "port")
    with contextlib.suppress(errors.NothingFree):
        return ports.take(key, (preferred, preferred), "ports", lambda port: port > 0 and is_free(port))
    ports.hand_on(attachment.key, attachment.port, key)
    known = Identity.load(attachment.state_dir, attachment.key)
    known._replace(port=0).save(attachment.state_dir)
    return attachment.port
