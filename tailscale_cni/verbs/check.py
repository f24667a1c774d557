"""CHECK: verify that the pod's node is still as ADD configured it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import errors, linux
from ..config import load_for_cleanup
from ..node.netns import as_tailnet, pod_network, recorded_netns
from ..node.resolve import resolve
from ..state.attachments import Attachments
from ..worker import launch
from ..worker.localapi import LocalApi

if TYPE_CHECKING:
    from ..cni.request import Request
    from ..state.attachments import Attachment
    from ..worker.localapi import Node


def run(request: Request) -> None:
    """Verify the node against ADD's record. Later changes of the configuration do not matter.

    CRI-O calls this directly after ADD, so a pending address is not a failure. Raises UnknownContainer for a pod that should be a node and
    was never added; CheckFailed with everything that is wrong.
    """
    store = Attachments(load_for_cleanup(request.config).state_dir)
    attachment = store.get(request.network, request.container_id, request.ifname)
    if attachment is None:
        if resolve(request).intent is not None:
            raise errors.UnknownContainer(container_id=request.container_id)
        return
    findings = _findings(attachment)
    if findings:
        raise errors.CheckFailed(pod=attachment.display_name, findings="; ".join(findings))


def _findings(attachment: Attachment) -> list[str]:
    if launch.is_deleted(attachment):
        deleted = errors.NodeDeleted(pod=attachment.display_name)
        return [f"{deleted}. {deleted.advice}"]
    if not launch.supervised(attachment):
        return ["the node's supervisor is not running"]
    if not (launch.was_running(attachment) and launch.configured(attachment)):
        return []
    try:
        node = LocalApi.of(attachment).node(peers=attachment.routes_per_peer)
    except errors.LocalApiFailed as e:
        return [str(e)]
    return [*_node_findings(attachment, node), *_network_findings(attachment, node)]


def _node_findings(attachment: Attachment, node: Node) -> list[str]:
    if not node.running:
        return [f"the node is not connected: {node.state}"]
    if {str(address) for address in node.addresses} != set(launch.configured(attachment)):
        return ["the node's addresses differ from the pod's"]
    return []


def _network_findings(attachment: Attachment, node: Node) -> list[str]:
    from ..net import pod

    network, tailnet = pod_network(attachment), as_tailnet(node)
    if not launch.is_configured_by_this_build(
        attachment
    ):  # its firewall may have other rules until the next sync
        network = network._replace(anti_spoofing=False)
    with recorded_netns(attachment) as netns:
        if netns is None:
            return ["the pod's network namespace is gone"]
        with linux.in_netns(netns):
            return list(pod.verify(network, tailnet))
