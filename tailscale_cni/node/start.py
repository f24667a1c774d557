"""Starting a node's processes: for ADD, for repair, and for a supervisor that restarts.

No lock is held while anything waits for the network.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors, linux
from ..build import artefact, binaries
from ..devices import assign
from ..identity import handover
from ..state import identities
from ..state.attachments import LOCK_TIMEOUT, Attachment, Attachments
from ..worker import launch
from . import authkeys, host_rules
from .netns import pod_network

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_KEY = b"start\n"
"""The start line of a node that is registered, or that will request its key later."""

MIN_MINT_TIMEOUT = 2.0
"""The time limit of a key request, in seconds, even if ``readyTimeout`` is shorter, because an answer that comes later is wasted."""


@contextlib.contextmanager
def started(attachment: Attachment, netns: int, deadline: float) -> Iterator[None]:
    """Start the node's processes unless they run. A unit reads its start line while the body runs.

    ``netns`` is a descriptor of the pod's namespace. ``deadline`` is in seconds of CLOCK_MONOTONIC. Raises the errors of ``start_line``,
    which a person has to fix before the node can get an auth key.
    """
    if launch.supervised(attachment):
        yield
        return
    assign.prepare(attachment, linux.seconds_left(deadline, MIN_MINT_TIMEOUT))
    handover.drop_mismatched_keys(attachment)
    line = start_line(attachment, min(linux.seconds_left(deadline, MIN_MINT_TIMEOUT), authkeys.SECONDS))
    with contextlib.ExitStack() as held:
        restart(attachment, netns, held, line)
        yield


def restart(
    attachment: Attachment,
    netns: int,
    held: contextlib.ExitStack,
    line: bytes = NO_KEY,
    patience: float = LOCK_TIMEOUT,
) -> None:
    """Start the processes of an attachment if they do not run. A node that needs a key and does not get one in ``line`` requests it later.

    ``held`` keeps the start line until the processes have read it. Raises Busy if another call holds the container's lock for longer
    than ``patience``, in seconds.
    """
    store = Attachments(attachment.state_dir)
    handover.apply_assignment(attachment, patience)
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current and not (current.lost or launch.is_deleted(current) or launch.supervised(current)):
            _start(store, handover.dispose_of_former(store, current), netns, line, held)


def begin_anew(attachment: Attachment) -> Attachment | None:
    """Prepare an attachment, whose processes must have ended, for a restart. Returns the updated attachment; None if it is gone."""
    handover.apply_assignment(attachment)
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            return None
        current = _of_this_build(store, handover.dispose_of_former(store, current))
        handover.drop_mismatched_keys(current)
        identities.make(current)
    return current


def _start(
    store: Attachments, attachment: Attachment, netns: int, line: bytes, held: contextlib.ExitStack
) -> None:
    """Do everything that a node needs before it has an address. The worker registers while Python configures the pod."""
    attachment = _of_this_build(store, attachment)
    handover.drop_mismatched_keys(attachment)
    identities.make(attachment)
    host_rules.ensure_once(store, attachment)
    _launch(attachment, netns, line, held)
    from ..net import host, pod  # while the node registers

    host_rules.ensure(store, attachment)
    host_addresses = tuple(map(str, host.host_tailnet_addresses()))
    if host_addresses != attachment.host_addresses:
        attachment = attachment._replace(host_addresses=host_addresses)
        store.save(attachment)
    network = pod_network(attachment)
    with linux.in_netns(netns):
        pod.prepare(network)


def _of_this_build(store: Attachments, attachment: Attachment) -> Attachment:
    """Record this build, whose programs are about to run, in the attachment; return the attachment."""
    if attachment.build != artefact.build_id():
        attachment = attachment._replace(build=artefact.build_id())
        store.save(attachment)
    return attachment


def _launch(attachment: Attachment, netns: int, line: bytes, held: contextlib.ExitStack) -> None:
    """Create the interface and start the processes. If a killed ADD started them, they already hold the interface."""
    try:
        tun = launch.open_tun(attachment, netns)
    except errors.NoTun:
        if launch.supervised(attachment):
            return
        raise
    launch.start(attachment, netns, tun, programs(), line, held)


def programs() -> launch.Programs:
    """The programs of this build. Raises InputOutput if they cannot be unpacked."""
    return launch.Programs(artefact.executable(), binaries.supervisor_binary(), binaries.worker_binary())


def start_line(attachment: Attachment, seconds: float) -> bytes:
    """The first line that the worker reads, with an auth key if the node needs one. The request takes at most ``seconds``.

    If the control plane creates no key now, the node starts without a key and requests one later. Raises NoAuthKey, ControlRefused, and
    ControlUnavailable for a pod that is ``required``.
    """
    if _is_registered(attachment):
        return NO_KEY
    try:
        return f"key {authkeys.mint(attachment, seconds).reveal()}\n".encode()
    except errors.ControlUnavailable:
        if attachment.required:
            raise
    return NO_KEY


def line_at_hand(attachment: Attachment) -> bytes:
    """A start line that needs no call to the control plane. Raises NoAuthKey."""
    if attachment.minter != "static" or _is_registered(attachment):
        return NO_KEY
    return start_line(attachment, 0)


def _is_registered(attachment: Attachment) -> bool:
    """Whether the node has keys. With keys, it reconnects as the same node and needs no auth key."""
    return identities.is_registered(attachment.state_dir, attachment.key)
