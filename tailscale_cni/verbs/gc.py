"""GC: remove the attachments that the runtime no longer lists as valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import errors
from ..config import load_for_cleanup
from ..identity import release
from ..node import teardown
from ..state.attachments import Attachments

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Remove this network's attachments that are no longer valid. If one attachment cannot be removed, the others still are.

    Without ``cni.dev/valid-attachments``, nothing is removed: a missing list does not mean that none is valid.
    """
    if request.valid_attachments is None:
        return
    failures, store = [], Attachments(load_for_cleanup(request.config).state_dir)
    for attachment in store.all():
        known = (attachment.container_id, attachment.ifname) in request.valid_attachments
        if attachment.network != request.network or known:
            continue
        try:
            teardown.end(attachment)
        except (errors.Error, OSError) as e:
            failures.append(e)
    release.deliver_soon(store.state_dir)
    if failures:
        raise failures[0]
