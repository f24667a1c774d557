"""Waiting for a node's address, and giving it to the pod's interface."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from .. import errors, linux
from ..devices import known
from ..state.attachments import Attachment, Attachments
from ..worker import launch
from . import authkeys
from .netns import as_tailnet, pod_network, recorded_netns

if TYPE_CHECKING:
    from ..worker.localapi import Node


RETRY_INTERVAL = 0.05
"""Seconds before a worker that does not answer is asked again. Its supervisor takes a moment to restart it."""

STATE_TIMEOUT = 0.5
"""Seconds for a worker without an address to report its state."""


def when_addressed(attachment: Attachment, seconds: float, deadline: float) -> None:
    """Wait for the node's tailnet address, and give it to the pod's interface.

    At ``deadline`` (CLOCK_MONOTONIC), ``seconds`` after the call began, the pod starts without an address. The supervisor configures the
    address later. Raises DeletedMeanwhile, and NotConnected for a pod that is ``required``.
    """
    node = _await_address(attachment, deadline)
    if node and node.addressed:
        synchronise(attachment, node)
    elif attachment.required:
        advice = authkeys.why_not_connected(attachment, node.state if node else "")
        state = node.state if node else "it does not answer"
        raise errors.NotConnected(pod=attachment.display_name, seconds=seconds, state=state, advice=advice)


def _await_address(attachment: Attachment, deadline: float) -> Node | None:
    """The node, with its address if it gets one by the deadline; None if the worker does not answer."""
    from ..worker.localapi import LocalApi  # while the node registers

    while (left := deadline - time.monotonic()) > 0:
        try:
            LocalApi.of(attachment, left).await_address()
            node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
            if node.addressed:
                return node
        except errors.LocalApiFailed:  # the supervisor restarts the worker
            _check_not_deleted(attachment)
        time.sleep(RETRY_INTERVAL)
    _check_not_deleted(attachment)
    with contextlib.suppress(errors.LocalApiFailed):
        return LocalApi.of(attachment, STATE_TIMEOUT).node(peers=attachment.routes_per_peer)
    return None


def _check_not_deleted(attachment: Attachment) -> None:
    """Raise DeletedMeanwhile if a DEL, or another ADD of the container, has removed the attachment."""
    store = Attachments(attachment.state_dir)
    current = store.current(attachment)
    if current is None:
        raise errors.DeletedMeanwhile(pod=attachment.display_name)


def synchronise(attachment: Attachment, node: Node) -> None:
    """Give the pod's interface exactly the node's addresses and routes. Raises DeletedMeanwhile."""
    from ..net import pod

    store = Attachments(attachment.state_dir)
    with store.locked(attachment.container_id):
        current = store.current(attachment)
        if current is None:
            raise errors.DeletedMeanwhile(pod=attachment.display_name)
        with recorded_netns(current) as netns:
            if netns is None:
                raise errors.DeletedMeanwhile(pod=attachment.display_name)
            with linux.in_netns(netns):
                pod.apply(pod_network(current), as_tailnet(node))
        launch.note_configured(current, node.asked, map(str, node.addresses))
        known.note(current, node)
    authkeys.reset_backoff(attachment)
