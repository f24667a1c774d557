"""ADD: the pod becomes a node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import errors
from ..control import select
from . import joining, succession, upkeep
from .namespace import pod_netns
from .wish import Wish

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Make the pod a node if it should be one; the answer is prevResult in any case.

    Raises what a person has to mend before the pod can start; a control plane that is down is not among it,
    unless the pod says ``tailscale.com/required``. A pod that the primary has just put into a network that is
    no longer the cluster's is sent back, once: the runtime tries again with the list of now.
    """
    wish = Wish.of(request)
    if upkeep.keep_in_step(wish.config):
        raise errors.NetworkChanged(pod=f"pod {request.pod or request.container_id}")
    if wish.intent is None:
        return
    select.start_early(select.configured(wish.config))
    deadline = time.monotonic() + wish.config.ready_timeout
    with pod_netns(request.netns) as netns:
        attachment = joining.begin(request, wish.config, wish.intent, netns, deadline)
    upkeep.revive(wish.config.state_dir, but=attachment.id)  # while the node registers
    joining.connect(attachment, wish.config.ready_timeout, deadline)
    succession.nudge(attachment)
