"""Becoming a node: the steps of ADD, which the supervisor's questions and repair share.

Every step can be done again after a crash in the middle of it. No lock is held while anything waits for the network.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from .. import artefact, errors, linux
from ..cni import result
from ..state import files, identities
from ..state.attachments import LOCK_SECONDS, Attachment, Attachments
from ..state.claims import Claims
from ..state.identities import Identity
from ..state.names import Name
from ..worker import launch
from . import devices, keys, returns, succession, underlay
from .leaving import end, unmake
from .namespace import is_recorded, pod_network, recorded_netns, tailnet, worker_uids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Request
    from ..config import Config
    from ..policy import PodIntent
    from ..worker.localapi import Node
    from .custody import Reservation

RETRY_SECONDS = 0.05
"""Before a worker that does not answer is asked again: its supervisor takes a moment to start another."""

LAST_WORD_SECONDS = 0.5
"""For a worker that has no address, to say why."""

NO_KEY = b"start\n"
"""The start line of a node that has been registered, or is to try."""

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
        devices.prepare(attachment, linux.left(deadline, SHORTEST_ASK))
        succession.fit(attachment)
        # A key that cannot be had is told here, where a person sees it.
        seconds = min(linux.left(deadline, SHORTEST_ASK), keys.SECONDS)
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
    from . import custody

    with custody.reserved(request, config, intent, deadline) as reserved:
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


def make_roots(state_dir: str, run_dir: str) -> None:
    """The directories that everything is in. Raises UnsafeDirectory."""
    files.make_directory(state_dir, 0o711)
    for name in ("attachments", "identities", "names"):
        files.make_directory(f"{state_dir}/{name}")
    files.make_directory(run_dir)
    link = f"{state_dir}/run"  # a record that cannot be read does not say where its socket is
    if files.read_link(link, "") != run_dir:
        files.remove(link)
        with contextlib.suppress(FileExistsError):  # another first ADD of this host
            os.symlink(run_dir, link)


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
        since=succession.now(),
        handover_window=config.handover_window,
        seeks_name=bool(config.kubeconfig) and intent.ephemeral and not keys.is_static(config),
        tags=intent.tags,
        ephemeral=intent.ephemeral,
        required=intent.required,
        on_deleted=config.on_deleted,
        control_url=config.control_url,
        **keys.choice(config),
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
        succession.enter(attachment, reservation), config, reservation.port if reservation else 0
    )
    store.save(attachment)
    if reservation:
        returns.settle(attachment)
    return attachment


def _claim(attachment: Attachment, config: Config, port: int) -> Attachment:
    """A uid and a UDP port: those of the identity that is kept, or the lowest free ones; if it is free, ``port``."""
    known = Identity.load(attachment.state_dir, attachment.key)
    uids, ports = Claims(config.state_dir, "uid"), Claims(config.state_dir, "port")
    uid, (first, last) = known.uid, worker_uids(attachment)
    if not first <= uid <= last:
        uids.release(attachment.key, uid)
        uid = uids.take(attachment.key, (first, last), "uidBase", lambda _: True)
    port = known.port or ports.take(attachment.key, config.ports, "ports", is_free, first=port)
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


def is_free(port: int) -> bool:
    """Whether nobody else on the host has the UDP port: tailscale would silently take another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def restart(attachment: Attachment, netns: int, line: bytes = NO_KEY, patience: float = LOCK_SECONDS) -> None:
    """Start the processes of an attachment, if they do not run. A node that needs a key and is given none asks for it.

    Raises Busy where others have been at it for longer than ``patience``, in seconds.
    """
    store = Attachments(attachment.state_dir)
    succession.settle(attachment, patience)
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current and not (current.lost or launch.is_deleted(current) or launch.supervised(current)):
            _start(store, succession.shed(store, current), netns, line)


def begin_anew(attachment: Attachment) -> Attachment | None:
    """What the attachment should be by now, with none of its processes running; None if it is gone."""
    succession.settle(attachment)
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            return None
        current = _of_this_build(store, succession.shed(store, current))
        succession.fit(current)
        identities.make(current)
    return current


def _start(store: Attachments, attachment: Attachment, netns: int, line: bytes) -> None:
    """Everything that a node needs before it has an address. The processes register while Python configures."""
    attachment = _of_this_build(store, attachment)
    succession.fit(attachment)
    identities.make(attachment)
    underlay.prepare(store, attachment)
    _launch(attachment, netns, line)
    from ..net import host, pod  # while the node registers

    underlay.confirm(store, attachment)
    host_addresses = tuple(map(str, host.host_tailnet_addresses()))
    if host_addresses != attachment.host_addresses:
        attachment = attachment._replace(host_addresses=host_addresses)
        store.save(attachment)
    network = pod_network(attachment)
    with linux.in_netns(netns):
        pod.prepare(network)


def _of_this_build(store: Attachments, attachment: Attachment) -> Attachment:
    """With the build of the processes that it is about to have."""
    if attachment.build != artefact.build_id():
        attachment = attachment._replace(build=artefact.build_id())
        store.save(attachment)
    return attachment


def _launch(attachment: Attachment, netns: int, line: bytes) -> None:
    """Make the interface and start the processes, unless an ADD that was killed did: then they hold the interface."""
    try:
        tun = launch.open_tun(attachment, netns)
    except errors.NoTun:
        if launch.supervised(attachment):
            return
        raise
    launch.start(attachment, netns, tun, programs(), line)


def programs() -> launch.Programs:
    """What this build has unpacked. Raises InputOutput if it cannot be."""
    return launch.Programs(artefact.executable(), artefact.supervisor_binary(), artefact.worker_binary())


def start_line(attachment: Attachment, seconds: float) -> bytes:
    """What a node's worker is told first: its key, if it needs one, which takes at most ``seconds``.

    With a control plane that makes none now, the node starts without: it asks again, and again. Raises NoAuthKey, ControlRefused, and
    ControlUnavailable for a pod that must not start off the tailnet.
    """
    if _is_registered(attachment):
        return NO_KEY
    try:
        return f"key {keys.mint(attachment, seconds).reveal()}\n".encode()
    except errors.ControlUnavailable:
        if attachment.required:
            raise
    return NO_KEY


def line_at_hand(attachment: Attachment) -> bytes:
    """The same, of what can be had without asking anybody. Raises NoAuthKey."""
    if attachment.minter != "static" or _is_registered(attachment):
        return NO_KEY
    return start_line(attachment, 0)


def _is_registered(attachment: Attachment) -> bool:
    """Whether the node has keys: then it needs no auth key to be the same node again."""
    return identities.is_registered(attachment.state_dir, attachment.key)


def connect(attachment: Attachment, seconds: float, deadline: float) -> None:
    """Wait for the node's tailnet address, and configure it.

    At ``deadline`` (CLOCK_MONOTONIC), which is ``seconds`` after the call began, the pod starts without: the supervisor configures the
    address when it comes. Raises DeletedMeanwhile, and NotConnected for a pod that must not start off the tailnet.
    """
    node = _await_address(attachment, deadline)
    if node and node.addressed:
        synchronise(attachment, node)
    elif attachment.required:
        advice = keys.why_not_connected(attachment, node.state if node else "")
        state = node.state if node else "it does not answer"
        raise errors.NotConnected(pod=attachment.who, seconds=seconds, state=state, advice=advice)


def _await_address(attachment: Attachment, deadline: float) -> Node | None:
    """The node, if it answers, with its address if it has got that by the deadline."""
    from ..worker.localapi import LocalApi  # while the node registers

    while (left := deadline - time.monotonic()) > 0:
        try:
            LocalApi.of(attachment, left).await_address()
            node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
            if node.addressed:
                return node
        except errors.LocalApiFailed:  # it is being started again
            _still_wanted(attachment)
        time.sleep(RETRY_SECONDS)
    _still_wanted(attachment)
    with contextlib.suppress(errors.LocalApiFailed):
        return LocalApi.of(attachment, LAST_WORD_SECONDS).node(peers=attachment.routes_per_peer)
    return None


def _still_wanted(attachment: Attachment) -> None:
    """Raises DeletedMeanwhile if a DEL, or another ADD, has taken the attachment away."""
    store = Attachments(attachment.state_dir)
    current = store.current(attachment)
    if current is None:
        raise errors.DeletedMeanwhile(pod=attachment.who)


def synchronise(attachment: Attachment, node: Node) -> None:
    """Give the pod's interface exactly the node's addresses and routes. Raises DeletedMeanwhile."""
    from ..net import pod

    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            raise errors.DeletedMeanwhile(pod=attachment.who)
        with recorded_netns(current) as netns:
            if netns is None:
                raise errors.DeletedMeanwhile(pod=attachment.who)
            with linux.in_netns(netns):
                pod.apply(pod_network(current), tailnet(node))
        launch.note_configured(current, node.asked, map(str, node.addresses))
        devices.note(current, node)
    keys.connected(attachment)
