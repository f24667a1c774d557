"""Ending a node: for DEL, GC and ``uninstall``, for an ADD that replaces it, and for a supervisor whose pod is gone.

Removing something that does not exist is not an error, so every step can be repeated after a crash. No lock is held while anything
waits for the network.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors, linux
from ..devices import deletions, known
from ..identity import handover, release
from ..state import files, identities
from ..state.attachments import LOCK_TIMEOUT, Attachments
from ..state.hostnames import Hostname
from ..state.identities import Identity
from ..state.roots import make_roots
from ..worker import cgroup, launch
from . import host_rules
from .netns import is_same_pod, pod_network, recorded_netns

if TYPE_CHECKING:
    from ..cni.request import Request
    from ..config import Config
    from ..policy import PodIntent
    from ..state.attachments import Attachment


LOGOUT_TIMEOUT = 1.5
"""Seconds that a logout may take. If it fails, the deletion of the device goes to the outbox."""


def end_stale(request: Request, config: Config, intent: PodIntent, netns: int) -> None:
    """End stale nodes before an ADD, so that the hostname is free before the new node registers.

    A node is stale if it has the same container ID but another pod or network namespace. A pod of the same hostname whose namespace is
    gone is stale, too: it ended without a DEL, as in a reboot. Creates the directories of the state, too.
    """
    store = Attachments(config.state_dir)
    former = store.get(request.network, request.container_id, request.ifname)
    if former and not is_same_pod(former, request, netns):
        end(former)
    make_roots(config.state_dir, config.run_dir)
    name = Hostname(store, request.pod.namespace if request.pod else "", intent.name)
    with name.locked():
        holders = name.holders().values()
    for holder in holders:
        with recorded_netns(holder) as found:
            gone = found is None
        if gone:
            end(holder)


def end(attachment: Attachment, patience: float = LOCK_TIMEOUT) -> None:
    """Log out, and remove everything that ADD made for an attachment.

    Raises Busy if another call holds the container's lock for longer than ``patience``, in seconds.
    """
    if attachment.ephemeral:
        log_out(attachment)
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id, seconds=patience):
        current = store.current(attachment)
        if current:
            remove(store, current)
    _clean_up_host(store, attachment)


def _clean_up_host(store: Attachments, last: Attachment) -> None:
    """After the last node of a host, remove what the nodes shared."""
    with files.locked(store.root, LOCK_TIMEOUT, "the host's rules", create=False) as there:
        if not there or any(store.all()):
            return
        files.remove(f"{last.state_dir}/run")
        host_rules.remove(last)


def log_out(attachment: Attachment) -> None:
    """Log the node out, so that the control plane removes an ephemeral node at once. If that fails, the node's device is deleted later."""
    with contextlib.suppress(errors.LocalApiFailed):
        if launch.supervisor_of(attachment):
            from ..worker.localapi import LocalApi

            LocalApi.of(attachment, LOGOUT_TIMEOUT).logout()
            known.forget(attachment)


def accept_deletion(attachment: Attachment) -> bool:
    """With ``onDeleted: stop``, note that the node was deleted while its pod ran, and remove its keys. Returns whether it stays deleted.

    A node that was deleted before its pod started registers anew.
    """
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None or current.on_deleted != "stop":
            return False
        if not (launch.was_online(current) and launch.is_same_node(current)):
            return False
        launch.note_deleted(current)
        known.forget(current)
        files.remove_tree(current.identity_dir)
    return True


def remove(store: Attachments, attachment: Attachment) -> None:
    """Remove everything that ADD made, in reverse order and the record last. The caller must hold the container's lock."""
    launch.end(attachment)
    with recorded_netns(attachment) as netns:
        if netns is not None:
            from ..net import pod

            network = pod_network(attachment)
            with linux.in_netns(netns):
                pod.remove(network)
    _remove_files(store, attachment)


def _remove_files(store: Attachments, attachment: Attachment) -> None:
    """Remove the files of an attachment whose processes and interface are gone."""
    if attachment.ephemeral:
        deletions.queue(attachment)
    files.remove_tree(attachment.worker_dir)
    if (
        attachment.ephemeral
        or attachment.lost  # another host holds the identity
        or not identities.is_registered(attachment.state_dir, attachment.key)
    ):
        identities.forget(attachment.state_dir, Identity.of(attachment))
    else:
        launch.remove_proxy(attachment)
        identities.note_use(attachment.state_dir, attachment.key)
    handover.dispose_of_former(store, attachment)
    handover.hand_over(attachment)
    store.forget(attachment)


def reap(attachment: Attachment) -> None:
    """Remove an attachment whose namespace is gone. The supervisor has become this process, so the node has no other process."""
    cgroup.leave()
    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current:
            cgroup.remove(attachment.id)
            _remove_files(store, current)
    _clean_up_host(store, attachment)
    release.deliver_soon(attachment.state_dir)
