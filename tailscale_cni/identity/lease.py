"""Which host runs an identity that the cluster keeps: taken at ADD, looked after while it runs, given back when its processes are dead.

Two hosts never run one identity. So whoever may hold one writes that down first (``state.releases``), and what the vault has not been told
is told later. No lock but that of one release is held while anything waits for the API.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import errors, linux
from ..state import identities
from ..state.attachments import Attachments
from ..state.host import host_id
from ..state.identities import Identity
from ..state.names import Name
from ..state.releases import Release, Releases
from . import release
from .reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Pod, Request
    from ..config import Config
    from ..kube import Api
    from ..policy import PodIntent
    from .secret_store import Holder, Taken


PATIENCE = 5.0
"""Seconds that an ADD waits for the API, within its ``readyTimeout``."""

SHORTEST = 2.0
"""However short that is: an answer that is not waited for is wasted."""

CONFIRMATION = 2.0
"""Seconds that it waits to hear that what is at hand has not become another host's."""

OURS, ANOTHERS = b"ours", b"another's"

LONGEST = 20
"""Seconds after which a child that asks for an ADD is ended."""


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
    from .secret_store import Vault

    api = release.api(host.kubeconfig)
    ours = own_holder(api, host.state_dir, pod.namespace, pod.name, pod.uid or "", key)
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
    hold = announce(releases, Release(key, host.kubeconfig, pod.namespace, intent.name))
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
        request.warn(f"the pod got another number of its hostname: {refusal}")
    number, record = found["number"], found["record"]
    contents = {name: base64.b64decode(text) for name, text in found["files"].items()}
    adopt(host.state_dir, name, number, as_identity(key, record, host.kubeconfig), contents)
    return intent, Reservation(number, key, host.kubeconfig, record["port"], hold)


def _without(
    request: Request, host: Config, intent: PodIntent, found: dict[str, Any]
) -> tuple[PodIntent, None]:
    """What a pod is that the cluster gives no identity."""
    if "host" in found:
        request.warn(f"the identity is stored on this host only: {found['host']}")
        return intent, None
    why = found.get("failure", f"the Kubernetes API did not respond within {PATIENCE:g} s")
    if intent.stateful or intent.required:
        raise errors.IdentityUnknown(pod=f"pod {request.pod}", reason=why, kubeconfig=host.kubeconfig)
    request.warn(f"the pod got a new ephemeral node instead of its identity: {why}")
    return intent._replace(ephemeral=True), None


def announce(releases: Releases, release: Release) -> int:
    """Write down what may have to be given back, before the vault is asked: whatever becomes of us then."""
    while True:
        releases.post(release)
        hold = releases.hold(release.key)
        if hold is not None:
            return hold


def _take(host: Config, pod: Pod, intent: PodIntent, key: str, taken: list[int]) -> bytes:
    """In the child: what was taken; or ``host``, why the host's disk has to do; or ``failure``, why nobody knows."""
    from .secret_store import Vault

    try:
        api = release.api(host.kubeconfig)
        holder = own_holder(api, host.state_dir, pod.namespace, pod.name, pod.uid or "", key)
        if holder is None:
            return json.dumps({"host": f"pod {pod} does not exist in the Kubernetes API"}).encode()
        release.give_back_of(host.state_dir, pod.namespace, intent.name)
        has = partial(release.is_known, Name(Attachments(host.state_dir), pod.namespace, intent.name))
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


def own_holder(api: Api, state_dir: str, namespace: str, pod: str, uid: str, key: str) -> Holder | None:
    """This host, by the Node that the API has the pod on; None if it has no such pod."""
    from .secret_store import Holder

    name = api.node_of(namespace, pod, uid)
    node = api.node(name) if name else None
    return Holder(name, node.uid, host_id(state_dir), linux.boot_id(), key) if node else None


def as_identity(key: str, record: dict[str, Any], kubeconfig: str) -> Identity:
    """Of this disk, without a uid and a port as yet."""
    tags = tuple(record["tags"])
    return Identity(key, 0, 0, record["control_url"], tags, record["node_id"], record["node_key"], kubeconfig)


def adopt(state_dir: str, name: Name, number: int, identity: Identity, contents: dict[str, bytes]) -> None:
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
