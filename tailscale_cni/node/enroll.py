"""Becoming a node: the steps of ADD, which the supervisor's questions and repair share.

Every step can be done again after a crash in the middle of it. No lock is held while anything waits for the network.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..build import artefact
from ..cni import result
from ..control import select
from ..devices import assign
from ..identity import handover, release
from ..state.attachments import Attachment, Attachments
from ..state.claims import Claims
from ..state.identities import Identity
from ..state.names import Name
from ..state.roots import make_roots
from ..worker import launch
from . import authkeys
from .netns import is_recorded, recorded_netns
from .start import restart, start_line
from .teardown import end, unmake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Request
    from ..config import Config
    from ..identity.reservation import Reservation
    from ..policy import PodIntent


SHORTEST_ASK = 2.0
"""Seconds that a control plane has to make a key, however short ``readyTimeout`` is: one that is not waited for is wasted."""


def begin(request: Request, config: Config, intent: PodIntent, netns: int, deadline: float) -> Attachment:
    """Record the attachment, make its interface and start its processes. The same attachment again changes nothing.

    Whoever has to be asked has until ``deadline`` (CLOCK_MONOTONIC), all together, and some seconds to answer at all.

    A container ID that comes back with another pod or another namespace is another pod: the old one is
    removed first, and logged out, so that its name is free. Raises NodeDeleted for a node that is not to come back.
    """
    store = Attachments(config.state_dir)
    former = store.get(request.network, request.container_id, request.ifname)
    if former and not _is_same_pod(former, request, netns):
        end(former)
    make_roots(config.state_dir, config.run_dir)
    _end_predecessors(store, request, intent)
    with _reserved(store, request, config, intent, netns, deadline) as (granted, reservation):
        attachment = _recorded(store, request, config, granted, netns, reservation)
    runs = launch.supervised(attachment)
    if not runs:
        assign.prepare(attachment, linux.left(deadline, SHORTEST_ASK))
        handover.fit(attachment)
        # A key that cannot be had is told here, where a person sees it.
        seconds = min(linux.left(deadline, SHORTEST_ASK), authkeys.SECONDS)
        restart(attachment, netns, start_line(attachment, seconds))
    return attachment


@contextlib.contextmanager
def _reserved(
    store: Attachments, request: Request, config: Config, intent: PodIntent, netns: int, deadline: float
) -> Iterator[tuple[PodIntent, Reservation | None]]:
    """An identity of the cluster's, if the pod is to have one, and has none yet."""
    known = store.get(request.network, request.container_id, request.ifname)
    asked = config.identity_store == "auto" and config.kubeconfig and not intent.ephemeral
    if not asked or (known and _is_whole(known, request, netns)):
        yield intent, None
        return
    from ..identity import lease

    with lease.reserved(request, config, intent, deadline) as reserved:
        yield reserved


def _recorded(
    store: Attachments,
    request: Request,
    config: Config,
    intent: PodIntent,
    netns: int,
    reservation: Reservation | None,
) -> Attachment:
    """The attachment as it was recorded, now or before."""
    with store.locked(request.container_id, create=True):
        attachment = store.get(request.network, request.container_id, request.ifname)
        if attachment and not _is_whole(attachment, request, netns):
            unmake(store, attachment)
            attachment = None
        if attachment and launch.is_deleted(attachment):
            raise errors.NodeDeleted(pod=attachment.who)
        if attachment is None:
            _refuse_a_second(store, request)
            attachment = _record(store, _new(request, config, intent, netns), config, reservation)
    return attachment


def _end_predecessors(store: Attachments, request: Request, intent: PodIntent) -> None:
    """End the pods of the same name that are gone without a DEL, as after a reboot: this one is who they were."""
    name = Name(store, request.pod.namespace if request.pod else "", intent.name)
    with name.locked():
        holders = name.holders().values()
    for holder in holders:
        with recorded_netns(holder) as netns:
            gone = netns is None
        if gone:
            end(holder)


def _refuse_a_second(store: Attachments, request: Request) -> None:
    """A second one would have the first one's interface, and its DEL would take it away. Raises AlreadyNode."""
    for other in store.in_container(request.container_id):
        if other.ifname != request.ifname and other.pod_uid == _pod_uid(request):
            raise errors.AlreadyNode(pod=other.who, ifname=other.ifname)


def _is_whole(attachment: Attachment, request: Request, netns: int) -> bool:
    """Whether it is of this pod, was recorded to its end, can be read, and has not lost its identity."""
    recorded = attachment.uid and attachment.port and not attachment.lost
    return bool(recorded and _is_same_pod(attachment, request, netns))


def _is_same_pod(attachment: Attachment, request: Request, netns: int) -> bool:
    return attachment.pod_uid == _pod_uid(request) and is_recorded(attachment, netns)


def _pod_uid(request: Request) -> str:
    return (request.pod and request.pod.uid) or ""


def _new(request: Request, config: Config, intent: PodIntent, netns: int) -> Attachment:
    """What the call, the host's configuration and the pod's wish make it; no name, no uid and no port as yet."""
    with linux.in_netns(netns):
        cookie = linux.netns_cookie()
    return Attachment(
        network=request.network,
        container_id=request.container_id,
        ifname=request.ifname,
        netns=request.netns or "",
        state_dir=config.state_dir,
        run_dir=config.run_dir,
        nonce=os.urandom(8).hex(),
        boot_id=linux.boot_id(),
        netns_inode=os.fstat(netns).st_ino,
        netns_cookie=cookie,
        namespace=request.pod.namespace if request.pod else "",
        pod=request.pod.name if request.pod else "",
        pod_uid=_pod_uid(request),
        name=intent.name,
        wanted=intent.number,
        since=handover.now(),
        handover_window=config.handover_window,
        seeks_name=bool(config.kubeconfig) and intent.ephemeral and not select.is_static(config),
        tags=intent.tags,
        ephemeral=intent.ephemeral,
        required=intent.required,
        on_deleted=config.on_deleted,
        control_url=config.control_url,
        **select.choice(config),
        underlay=config.underlay,
        pod_addresses=tuple(str(address.ip) for address in result.pod_addresses(request.prev_result or {})),
        cluster_cidrs=tuple(str(network) for network in config.cluster_cidrs),
        anti_spoofing=config.anti_spoofing,
        port_mapping=config.port_mapping,
        launcher=_launcher(config.launcher),
        uid_base=config.uid_base,
        build=artefact.build_id(),
    )


def _record(
    store: Attachments, attachment: Attachment, config: Config, reservation: Reservation | None
) -> Attachment:
    """On the disk first as a name, so that claims name a holder that can be found; then with what it claimed."""
    store.save(attachment)
    attachment = _claim(
        handover.enter(attachment, reservation), config, reservation.port if reservation else 0
    )
    store.save(attachment)
    if reservation:
        release.settle(attachment)
    return attachment


def _claim(attachment: Attachment, config: Config, port: int) -> Attachment:
    """A uid and a UDP port: those of the identity that is kept, or the lowest free ones; if it is free, ``port``."""
    known = Identity.load(attachment.state_dir, attachment.key)
    uids, ports = Claims(config.state_dir, "uid"), Claims(config.state_dir, "port")
    uid, (first, last) = known.uid, attachment.worker_uids
    if not first <= uid <= last:
        uids.release(attachment.key, uid)
        uid = uids.take(attachment.key, (first, last), "uidBase", lambda _: True)
    port = known.port or ports.take(attachment.key, config.ports, "ports", linux.is_udp_port_free, first=port)
    if attachment.identity and not known.uid:
        known = (
            known if known.kubeconfig else Identity.of(attachment)
        )  # of what it was, for whoever has to fit it
        known._replace(uid=uid, port=port).save(attachment.state_dir)
    return attachment._replace(uid=uid, port=port)


def _launcher(configured: str) -> str:
    if configured == "auto":
        return "systemd" if linux.booted_with_systemd() else "session"
    return configured
