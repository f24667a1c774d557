"""``logout``: log out a node whose pod is gone, so that the control plane removes the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..node import teardown
from . import exits

if TYPE_CHECKING:
    from ..state.attachments import Attachment


def run(attachment: Attachment, _deleted: bool) -> int:  # noqa: FBT001
    """Log the node out, if its worker still answers."""
    teardown.log_out(attachment)
    return exits.DONE
