"""``reap``: remove everything of a node whose pod is gone. The supervisor becomes this process, so the node has no other process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..node import teardown
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment


def run(attachment: Attachment, _deleted: bool) -> int:  # noqa: FBT001
    """Remove the attachment and everything that ADD made for it."""
    teardown.reap(attachment)
    return exits.DONE
