"""Recording the attachment of a pod that becomes a node: identity, user ID, UDP port, and what later calls need.

Every step can be repeated after a crash in the middle of it. No lock is held while anything waits for the network.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..build import artefact
from ..cni import result
from ..control import select
from ..identity import handover, release
from ..state import files
from ..state.attachments import Attachment, Attachments
from ..state.claims import Claims
from ..state.identities import Identity
from ..worker import launch
from .netns import is_same_pod, pod_uid
from .teardown import remove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Request
    from ..config import Config
    from ..identity.reservation import Reservation
    from ..policy import PodIntent


@contextlib.contextmanager
def reserved_identity(
    request: Request, config: Config, intent: PodIntent, netns: int, deadline: float
) -> Iterator[tuple[PodIntent, Reservation | None]]:
    """Hold an identity from the cluster while the body records it, if the pod should have one and has none yet.

    Yields the intent, which may have become ephemeral, and the reservation; None for an identity that is only on the host's disk.
    ``deadline`` is in seconds of CLOCK_MONOTONIC. Raises IdentityUnknown.
    """
    known = Attachments(config.state_dir).get(request.network, request.container_id, request.ifname)
    asked = config.identity_store == "auto" and config.kubeconfig and not intent.ephemeral
    if not asked or (known and _is_whole(known, request, netns)):
        yield intent, None
        return
    from ..identity import lease

    with lease.reserved(request, config, intent, deadline) as reserved:
        yield reserved


def record(
    request: Request, config: Config, intent: PodIntent, netns: int, reservation: Reservation | None
) -> Attachment:
    """Write the attachment to disk, or find it there. A repeated ADD changes nothing.

    Raises NodeDeleted for a node that must stay deleted, AlreadyNode for a second interface of a pod.
    """
    store = Attachments(config.state_dir)
    with store.locked(request.container_id, create=True):
        attachment = store.get(request.network, request.container_id, request.ifname)
        if attachment and not _is_whole(attachment, request, netns):
            remove(store, attachment)
            attachment = None
        if attachment and launch.is_deleted(attachment):
            raise errors.NodeDeleted(pod=attachment.display_name)
        if attachment is None:
            _refuse_a_second(store, request)
            attachment = _record(store, _new(request, config, intent, netns), config, reservation)
    return attachment


def _refuse_a_second(store: Attachments, request: Request) -> None:
    """Raise AlreadyNode for a second attachment of the pod. Both would share one interface, and the first DEL would remove it."""
    for other in store.in_container(request.container_id):
        if other.ifname != request.ifname and other.pod_uid == pod_uid(request):
            raise errors.AlreadyNode(pod=other.display_name, ifname=other.ifname)


def _is_whole(attachment: Attachment, request: Request, netns: int) -> bool:
    """Whether the attachment belongs to this pod, was recorded completely, can be read, and has not lost its identity."""
    recorded = attachment.uid and attachment.port and not attachment.lost
    return bool(recorded and is_same_pod(attachment, request, netns))


def _new(request: Request, config: Config, intent: PodIntent, netns: int) -> Attachment:
    """A new attachment from the call, the configuration and the intent, without hostname number, user ID and port."""
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
        pod_uid=pod_uid(request),
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
        **select.configured(config).fields(),
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
    """Save the attachment, claim number, user ID and port, and save it again. So each claim names a holder that is on disk."""
    store.save(attachment)
    attachment = _claim(
        handover.take_number(attachment, reservation), config, reservation.port if reservation else 0
    )
    store.save(attachment)
    if reservation:
        release.clear_pending(attachment)
    return attachment


def _claim(attachment: Attachment, config: Config, port: int) -> Attachment:
    """Claim a user ID and a UDP port: the retained identity's, else ``port`` if it is free, else the lowest free ones."""
    known = Identity.load(attachment.state_dir, attachment.key)
    uids, ports = Claims(config.state_dir, "uid"), Claims(config.state_dir, "port")
    uid, (first, last) = known.uid, attachment.worker_uids
    if not first <= uid <= last:
        uids.release(attachment.key, uid)
        uid = uids.take(attachment.key, (first, last), "uidBase", lambda _: True)
    if attachment.identity and not known.port:
        ports.release(attachment.key, 0)  # the identity's record may be lost
    port = known.port or ports.take(attachment.key, config.ports, "ports", linux.is_udp_port_free, first=port)
    if attachment.identity and not known.uid:
        if not known.kubeconfig:  # keys without a record are of an unknown control plane
            files.remove_tree(attachment.identity_dir)
        # An identity from the cluster keeps its registration. If its tags differ, its keys are dropped later.
        known = known if known.kubeconfig else Identity.of(attachment)
        known._replace(uid=uid, port=port).save(attachment.state_dir)
    return attachment._replace(uid=uid, port=port)


def _launcher(configured: str) -> str:
    if configured == "auto":
        return "systemd" if linux.booted_with_systemd() else "session"
    return configured
