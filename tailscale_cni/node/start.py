"""Starting a node's processes, again and again if need be: the steps that ADD, repair and the supervisor's tasks share.

No lock is held while anything waits for the network.
"""

from __future__ import annotations

from .. import errors, linux
from ..build import artefact, binaries
from ..identity import handover
from ..state import identities
from ..state.attachments import LOCK_SECONDS, Attachment, Attachments
from ..worker import launch
from . import authkeys, host_rules
from .netns import pod_network

NO_KEY = b"start\n"
"""The start line of a node that has been registered, or is to try."""


def restart(attachment: Attachment, netns: int, line: bytes = NO_KEY, patience: float = LOCK_SECONDS) -> None:
    """Start the processes of an attachment, if they do not run. A node that needs a key and is given none asks for it.

    Raises Busy where others have been at it for longer than ``patience``, in seconds.
    """
    store = Attachments(attachment.state_dir)
    handover.settle(attachment, patience)
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current and not (current.lost or launch.is_deleted(current) or launch.supervised(current)):
            _start(store, handover.shed(store, current), netns, line)


def begin_anew(attachment: Attachment) -> Attachment | None:
    """What the attachment should be by now, with none of its processes running; None if it is gone."""
    handover.settle(attachment)
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            return None
        current = _of_this_build(store, handover.shed(store, current))
        handover.fit(current)
        identities.make(current)
    return current


def _start(store: Attachments, attachment: Attachment, netns: int, line: bytes) -> None:
    """Everything that a node needs before it has an address. The processes register while Python configures."""
    attachment = _of_this_build(store, attachment)
    handover.fit(attachment)
    identities.make(attachment)
    host_rules.prepare(store, attachment)
    _launch(attachment, netns, line)
    from ..net import host, pod  # while the node registers

    host_rules.confirm(store, attachment)
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
    return launch.Programs(artefact.executable(), binaries.supervisor_binary(), binaries.worker_binary())


def start_line(attachment: Attachment, seconds: float) -> bytes:
    """What a node's worker is told first: its key, if it needs one, which takes at most ``seconds``.

    With a control plane that makes none now, the node starts without: it asks again, and again. Raises NoAuthKey, ControlRefused, and
    ControlUnavailable for a pod that must not start off the tailnet.
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
    """The same, of what can be had without asking anybody. Raises NoAuthKey."""
    if attachment.minter != "static" or _is_registered(attachment):
        return NO_KEY
    return start_line(attachment, 0)


def _is_registered(attachment: Attachment) -> bool:
    """Whether the node has keys: then it needs no auth key to be the same node again."""
    return identities.is_registered(attachment.state_dir, attachment.key)
