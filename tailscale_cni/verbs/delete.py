"""DEL: remove the pod's node and everything that ADD made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import load_for_cleanup
from ..identity import release
from ..install import keep_in_step
from ..node import repair, teardown
from ..state.attachments import Attachments

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Remove everything that ADD recorded. Later changes of the configuration do not matter. Without a record, nothing is removed."""
    config = load_for_cleanup(request.config)
    store = Attachments(config.state_dir)
    with store.locked(request.container_id):  # wait until a running ADD has recorded it
        attachments = store.of_container(request.container_id, request.ifname)
    exact = [attachment for attachment in attachments if attachment.network == request.network]
    for attachment in exact or attachments:
        teardown.end(attachment)
    keep_in_step.keep_in_step(config)
    if attachments:
        release.deliver_now(config.state_dir, attachments)
        repair.others(config.state_dir)
