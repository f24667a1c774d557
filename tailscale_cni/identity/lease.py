"""Leases of the cluster's identities: ADD takes a lease, ``renew`` renews it, ``release`` releases it.

Two hosts never run one identity. So a host queues a release before it asks for a lease (``state.releases``), and after a crash at any
moment the release is still queued. While a call waits for the Kubernetes API, it holds no lock except for the lock of one release.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors, linux
from ..json_fields import as_dict, as_list, as_text
from ..state import identities
from ..state.attachments import Attachments
from ..state.host import host_id
from ..state.hostnames import Hostname
from ..state.identities import Identity
from ..state.releases import Release, Releases
from . import release
from .reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Pod, Request
    from ..config import Config
    from ..kube.client import Api
    from ..policy import PodIntent
    from .secret_store import Holder, Taken

API_SHARE = 0.5
"""The part of ``readyTimeout`` that an ADD waits for the Kubernetes API: 5 s by default."""

MIN_API_TIMEOUT = 2.0
"""Seconds that an ADD waits even if ``readyTimeout`` is shorter, because an answer that comes later is wasted."""

CONFIRM_TIMEOUT = 2.0
"""Seconds that an ADD waits for the API to confirm that an identity on this disk is not another host's now."""

MIN_CHILD_TIMEOUT = 20
"""Seconds after which a child that asks the API for an ADD is ended, or four times what the ADD waits for it."""

OURS, ANOTHERS = b"ours", b"another's"


class Answer(NamedTuple):
    """The answer of an ADD's child: a lease, or why there is none.

    ``host_only`` is why the identity is only stored on the host's disk. ``failure`` is why the holder of the identity is unknown. At most
    one of the three is set.
    """

    number: int | None = None
    record: dict[str, Any] = {}  # noqa: RUF012 - never changed
    files: dict[str, bytes] = {}  # noqa: RUF012
    refusals: tuple[str, ...] = ()
    """Why identities with better numbers could not be taken."""
    host_only: str = ""
    failure: str = ""

    @classmethod
    def of(cls, taken: Taken | None) -> Answer:
        """The answer for an identity from the secret store."""
        if taken is None:
            return cls()
        entry = taken.entry
        return cls(entry.number, entry.record._asdict(), dict(entry.files), tuple(taken.refusals))

    def encode(self) -> bytes:
        """Encode the answer for the pipe to the parent."""
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        return json.dumps({**self._asdict(), "files": files}).encode()

    @classmethod
    def decode(cls, data: bytes | None) -> Answer:
        """Decode an answer from the pipe; an empty answer if the child did not answer in time."""
        document = as_dict(json.loads(data or b"{}"))
        number = document.get("number")
        return cls(
            number if isinstance(number, int) else None,
            as_dict(document.get("record")),
            {name: base64.b64decode(text) for name, text in as_dict(document.get("files")).items()},
            tuple(map(as_text, as_list(document.get("refusals")))),
            as_text(document.get("host_only")),
            as_text(document.get("failure")),
        )


@contextlib.contextmanager
def reserved(
    request: Request, config: Config, intent: PodIntent, deadline: float
) -> Iterator[tuple[PodIntent, Reservation | None]]:
    """Hold an identity for a pod until the body has recorded it (``release.clear_pending``). Yields None if only the host's disk stores it.

    An identity that this host has not released yet is taken even if the API does not answer. If the API does not say whether another
    host holds the identity, the pod gets a new ephemeral node. A StatefulSet's pod or a ``required`` pod fails with IdentityUnknown
    instead. Most waits end at ``deadline``, in seconds of CLOCK_MONOTONIC.
    """
    pod = request.pod
    if pod is None or pod.namespace in config.exclude_namespaces:  # these must start without an API
        yield intent, None
        return
    name = Hostname(Attachments(config.state_dir), pod.namespace, intent.name)
    with contextlib.ExitStack() as holds:  # no other process may release it
        reservation = _unreleased(config, pod, name, intent, deadline, holds)
        if reservation is None:
            intent, reservation = _take(request, config, intent, name, deadline, holds)
        yield intent, reservation


def _unreleased(
    config: Config, pod: Pod, name: Hostname, intent: PodIntent, deadline: float, holds: contextlib.ExitStack
) -> Reservation | None:
    """An identity that this host has queued for release and still holds. If another process is just releasing it, wait for that.

    The host's Node may have been deleted meanwhile, or the disk may be a copy of another host's. So the API is asked whether another
    host is the holder. If the API does not answer, this host counts as the holder.
    """
    releases = Releases(config.state_dir)
    with name.locked():
        taken = name.holders()
        numbers = sorted(name.all_retained()) if intent.number is None else [intent.number]
        idle = [(number, name.retained(number)) for number in numbers if number not in taken]
    ours = [(number, key) for number, key in idle if key and Identity.load(config.state_dir, key).kubeconfig]
    tries = [(0.0, *one) for one in ours] + [(_api_timeout(config), *one) for one in ours[:1]]
    for seconds, number, key in tries:
        with contextlib.ExitStack() as attempt:
            hold = releases.hold(key, min(seconds, linux.seconds_left(deadline)))
            if hold is None:
                continue
            attempt.callback(os.close, hold)
            whose = linux.run_bounded(
                partial(_whose, config, pod, name, number, key), CONFIRM_TIMEOUT, MIN_CHILD_TIMEOUT
            )
            if whose != ANOTHERS:
                holds.enter_context(attempt.pop_all())
                return Reservation(number, key, config.kubeconfig, 0)
    return None


def _whose(config: Config, pod: Pod, name: Hostname, number: int, key: str) -> bytes:
    """In the child: OURS or ANOTHERS for an identity on this disk; empty if the API does not say which Node this host is."""
    from .secret_store import SecretStore

    api = release.cluster_api(config.kubeconfig)
    ours = own_holder(api, config.state_dir, pod.namespace, pod.name, pod.uid or "", key)
    if ours is None:
        return b""
    entry = SecretStore(api, name.namespace, name.name).entry(number)
    held = entry.holder if entry else None
    return OURS if held and held.node == ours.node and held.is_same(ours) else ANOTHERS


def _take(
    request: Request,
    config: Config,
    intent: PodIntent,
    name: Hostname,
    deadline: float,
    holds: contextlib.ExitStack,
) -> tuple[PodIntent, Reservation | None]:
    """Ask the cluster for an identity, and write it to this disk."""
    pod = request.pod
    assert pod is not None  # noqa: S101 - for types
    releases, key = Releases(config.state_dir), os.urandom(8).hex()
    with contextlib.ExitStack() as attempt:
        hold = announce(releases, Release(key, config.kubeconfig, pod.namespace, intent.name))
        attempt.callback(os.close, hold)
        with name.locked():
            taken = sorted(name.holders())
        data = linux.run_bounded(
            lambda: _answer(config, pod, intent, key, taken).encode(),
            min(_api_timeout(config), linux.seconds_left(deadline, MIN_API_TIMEOUT)),
            max(MIN_CHILD_TIMEOUT, int(4 * _api_timeout(config))),
            keep=(hold,),
        )
        answer = Answer.decode(data)
        if answer.number is not None:
            for refusal in answer.refusals[:1]:
                request.warn(f"the pod got another number of its hostname: {refusal}")
            identity = as_identity(key, answer.record, config.kubeconfig)
            adopt(config.state_dir, name, answer.number, identity, answer.files)
            holds.enter_context(attempt.pop_all())
            return intent, Reservation(answer.number, key, config.kubeconfig, answer.record["port"])
        if answer.host_only:  # not after a failure, because the lease may have been taken all the same
            releases.done(key)
    return _without_lease(request, config, intent, answer), None


def _without_lease(request: Request, config: Config, intent: PodIntent, answer: Answer) -> PodIntent:
    """The intent for a pod without an identity from the cluster. Raises IdentityUnknown."""
    if answer.host_only:
        request.warn(f"the identity is stored on this host only: {answer.host_only}")
        return intent
    why = answer.failure or f"the Kubernetes API did not respond within {_api_timeout(config):g} s"
    if intent.stateful or intent.required:
        raise errors.IdentityUnknown(pod=f"pod {request.pod}", reason=why, kubeconfig=config.kubeconfig)
    request.warn(f"the pod got a new ephemeral node instead of its identity: {why}")
    return intent._replace(ephemeral=True)


def _api_timeout(config: Config) -> float:
    """The seconds that an ADD waits for the Kubernetes API."""
    return max(MIN_API_TIMEOUT, API_SHARE * config.ready_timeout)


def announce(releases: Releases, release: Release) -> int:
    """Queue a release before the cluster is asked for a lease. Returns the descriptor that holds the release's lock."""
    while True:
        releases.post(release)
        hold = releases.hold(release.key)
        if hold is not None:
            return hold


def _answer(config: Config, pod: Pod, intent: PodIntent, key: str, taken: list[int]) -> Answer:
    """In the child: take a lease."""
    from .secret_store import SecretStore

    try:
        api = release.cluster_api(config.kubeconfig)
        holder = own_holder(api, config.state_dir, pod.namespace, pod.name, pod.uid or "", key)
        if holder is None:
            return Answer(host_only=f"pod {pod} does not exist in the Kubernetes API")
        release.deliver_of_hostname(config.state_dir, pod.namespace, intent.name)
        has = partial(release.is_known, Hostname(Attachments(config.state_dir), pod.namespace, intent.name))
        return Answer.of(
            SecretStore(api, pod.namespace, intent.name).take(holder, intent.number, taken, has=has)
        )
    except (errors.KubernetesForbids, errors.BadKubeconfig) as e:
        return Answer(host_only=str(e))
    except errors.Error as e:
        return Answer(failure=str(e))


def own_holder(api: Api, state_dir: str, namespace: str, pod: str, uid: str, key: str) -> Holder | None:
    """This host as the holder of ``key``, with the pod's Node from the API; None if the API has no such pod."""
    from .secret_store import Holder

    name = api.node_of(namespace, pod, uid)
    node = api.node(name) if name else None
    return Holder(name, node.uid, host_id(state_dir), linux.boot_id(), key) if node else None


def as_identity(key: str, record: dict[str, Any], kubeconfig: str) -> Identity:
    """The identity from a Secret's record, for this disk, without a user ID and a port."""
    tags = tuple(record["tags"])
    return Identity(key, 0, 0, record["control_url"], tags, record["node_id"], record["node_key"], kubeconfig)


def adopt(
    state_dir: str, name: Hostname, number: int, identity: Identity, contents: dict[str, bytes]
) -> None:
    """Write an identity from the cluster to this disk. If it has no keys yet, an identity that was only on this disk is used for it."""
    from ..state import node_files

    with name.locked():
        kept = name.retained(number)
        known = Identity.load(state_dir, kept) if kept else Identity("")
        is_ours = kept and not known.kubeconfig and number not in name.holders()
        if is_ours and not contents and identities.is_registered(state_dir, kept):
            ours = known._replace(key=identity.key, kubeconfig=identity.kubeconfig)
            identities.rename(state_dir, known, ours)  # if this call is killed here, both are released
            name.retain(number, identity.key)
            return
    if contents:
        node_files.write(identities.directory(state_dir, identity.key), contents)
    identity.save(state_dir)
