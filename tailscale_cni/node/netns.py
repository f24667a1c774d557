"""A pod's network namespace, as the runtime names it and as ADD recorded it, and the pod's values for ``net``."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import TYPE_CHECKING

from .. import errors, linux
from ..tailnet import overlapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cni.request import Request
    from ..net.model import PodNetwork, Tailnet
    from ..state.attachments import Attachment
    from ..worker.localapi import Node


@contextlib.contextmanager
def pod_netns(path: str | None) -> Iterator[int]:
    """Open the pod's namespace; yield the descriptor. Raises InvalidNetns, also for the plugin's own namespace."""
    netns = linux.open_netns(path or "")
    try:
        if linux.is_own_netns(netns):
            raise errors.InvalidNetns(path=errors.show(path), reason="it is the plugin's own")
        yield netns
    finally:
        os.close(netns)


@contextlib.contextmanager
def recorded_netns(attachment: Attachment) -> Iterator[int | None]:
    """Open the namespace that ADD configured; yield the descriptor, or None if the namespace is gone or replaced at its path.

    The kernel reuses inode numbers at once, so the namespace's cookie is compared. Kernels before Linux 5.14 have no cookie, so the
    inode number and our interface are compared.
    """
    try:
        netns = linux.open_netns(attachment.netns)
    except errors.InvalidNetns:
        yield None
        return
    try:
        yield netns if is_recorded(attachment, netns) else None
    finally:
        os.close(netns)


def is_recorded(attachment: Attachment, netns: int) -> bool:
    """Whether a descriptor refers to the namespace that ADD configured."""
    if attachment.boot_id != linux.boot_id():
        return False
    with linux.in_netns(netns):
        cookie = linux.netns_cookie()
        if cookie is not None:
            return cookie == attachment.netns_cookie
        return os.fstat(netns).st_ino == attachment.netns_inode and linux.has_interface(attachment.interface)


def is_same_pod(attachment: Attachment, request: Request, netns: int) -> bool:
    """Whether an attachment belongs to the call's pod. The runtime can reuse a container ID for another pod."""
    return attachment.pod_uid == pod_uid(request) and is_recorded(attachment, netns)


def pod_uid(request: Request) -> str:
    """The UID of the call's pod; empty if the runtime has not passed one."""
    return (request.pod and request.pod.uid) or ""


def pod_network(attachment: Attachment) -> PodNetwork:
    """The values that ``net`` needs about an attachment's pod."""
    from ..net import model

    clusters = tuple(ipaddress.ip_network(network) for network in attachment.cluster_cidrs)
    return model.PodNetwork(
        interface=attachment.interface,
        mtu=attachment.mtu,
        pod_addresses=tuple(ipaddress.ip_address(address) for address in attachment.pod_addresses),
        host_sources=(
            *(ipaddress.ip_network(address) for address in attachment.host_addresses),
            *overlapping(clusters),
        ),
        cluster_cidrs=clusters,
        anti_spoofing=attachment.anti_spoofing,
        worker_uid_range=attachment.worker_uids if attachment.underlay == "pod" else None,
        tun_owner=attachment.uid,
    )


def as_tailnet(node: Node) -> Tailnet:
    """The values that ``net`` needs about a node."""
    from ..net import model

    return model.Tailnet(addresses=node.addresses, peers=node.peers)
