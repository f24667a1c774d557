"""Starting a node's processes: for ADD, for repair, and for the supervisor that starts anew.

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
from ..state.attachments import LOCK_SECONDS, Attachment, Attachments
from ..worker import launch
from . import authkeys, host_rules
from .netns import pod_network

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_KEY = b"start\n"
"""The start line of a node that is registered, or that will ask for its key."""

MIN_MINT_TIMEOUT = 2.0
"""Seconds that a control plane always has to make a key, however short ``readyTimeout`` is: an answer that comes later is wasted."""


@contextlib.contextmanager
def started(attachment: Attachment, netns: int, deadline: float) -> Iterator[None]:
    """Start the node's processes unless they run. A unit reads its start line while the body runs.

    ``netns`` is a descriptor of the pod's namespace, ``deadline`` in seconds of CLOCK_MONOTONIC. Raises what a person has to mend before
    the node can get an auth key (``start_line``).
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
    patience: float = LOCK_SECONDS,
) -> None:
    """Start the processes of an attachment if they do not run. A node that needs a key and is given none asks for it.

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
    """The attachment as its processes, which have ended, should start again; None if it is gone."""
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
    """Do everything that a node needs before it has an address. The processes register while Python configures the pod."""
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
    """The attachment, recorded with this build, whose programs it is about to run."""
    if attachment.build != artefact.build_id():
        attachment = attachment._replace(build=artefact.build_id())
        store.save(attachment)
    return attachment


def _launch(attachment: Attachment, netns: int, line: bytes, held: contextlib.ExitStack) -> None:
    """Make the interface and start the processes. If an ADD that was killed has started them, they hold the interface already."""
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
    """The first line that the worker reads: with an auth key if it needs one, which takes at most ``seconds``.

    If the control plane makes no key now, the node starts without one and asks again. Raises NoAuthKey, ControlRefused, and for a pod that
    is ``required`` ControlUnavailable.
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
    """The start line that needs no control plane. Raises NoAuthKey."""
    if attachment.minter != "static" or _is_registered(attachment):
        return NO_KEY
    return start_line(attachment, 0)


def _is_registered(attachment: Attachment) -> bool:
    """Whether the node has keys. It then needs no auth key to be the same node again."""
    return identities.is_registered(attachment.state_dir, attachment.key)
