"""ADD: the pod becomes a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import joining, upkeep
from .namespace import pod_netns
from .wish import Wish

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Make the pod a node if it should be one; the answer is prevResult in any case.

    Raises what a person has to mend before the pod can start; a control plane that is down is not among it,
    unless the pod says
    ``tailscale.com/required``.
    """
    wish = Wish.of(request)
    if wish.intent is None:
        upkeep.keep_in_step(wish.config)
        return
    with pod_netns(request.netns) as netns:
        attachment = joining.begin(request, wish.config, wish.intent, netns)
    joining.connect(attachment, wish.config.ready_timeout)
    upkeep.keep_in_step(wish.config)
    upkeep.revive(wish.config.state_dir, but=attachment.id)
