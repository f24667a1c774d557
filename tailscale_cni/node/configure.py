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


RETRY_SECONDS = 0.05
"""Before a worker that does not answer is asked again: its supervisor takes a moment to start another."""

LAST_WORD_SECONDS = 0.5
"""For a worker that has no address, to say why."""


def when_addressed(attachment: Attachment, seconds: float, deadline: float) -> None:
    """Wait for the node's tailnet address, and configure it.

    At ``deadline`` (CLOCK_MONOTONIC), which is ``seconds`` after the call began, the pod starts without: the supervisor configures the
    address when it comes. Raises DeletedMeanwhile, and NotConnected for a pod that must not start off the tailnet.
    """
    node = _await_address(attachment, deadline)
    if node and node.addressed:
        synchronise(attachment, node)
    elif attachment.required:
        advice = authkeys.why_not_connected(attachment, node.state if node else "")
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
                pod.prepare(pod_network(current))
                pod.apply(pod_network(current), as_tailnet(node))
        launch.note_configured(current, node.asked, map(str, node.addresses))
        known.note(current, node)
    authkeys.connected(attachment)
