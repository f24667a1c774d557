"""ADD: the pod becomes a node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import errors
from ..control import select
from ..identity import handover
from ..install.keep_in_step import keep_in_step
from ..node import configure, enroll, repair, start, teardown
from ..node.netns import pod_netns
from ..node.resolve import resolve

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Make the pod a node if it should be a node. The result is always prevResult.

    An error means that a person has to fix something before the pod can start, or that the runtime should try again. A control plane
    that is down is not an error, unless the pod is annotated ``tailscale.com/required``.
    """
    config, intent = resolve(request)
    if keep_in_step(config):
        raise errors.NetworkChanged(pod=f"pod {request.pod or request.container_id}")
    if intent is None:
        return
    select.start_early(select.configured(config))  # the child imports meanwhile
    deadline = time.monotonic() + config.ready_timeout
    with pod_netns(request.netns) as netns:
        teardown.end_stale(request, config, intent, netns)
        with enroll.reserved_identity(request, config, intent, netns, deadline) as (granted, reservation):
            attachment = enroll.record(request, config, granted, netns, reservation)
        with start.started(attachment, netns, deadline):
            repair.others(config.state_dir, but=attachment.id)  # while the node registers
            configure.when_addressed(attachment, config.ready_timeout, deadline)
    handover.wake_if_reassigned(attachment)
