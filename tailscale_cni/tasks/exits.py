"""The exit statuses of the tasks. workers/internal/exits has the same table, and a test compares the two tables.

During an upgrade, the supervisor of one build runs the tasks of another build. So a number never changes its meaning.
"""

from __future__ import annotations

DONE = 0

RETRY_LATER = 1
"""The task failed. The supervisor retries it with growing delays."""

GONE = 3
"""The attachment is gone, or its node must not run any more. The unit does not restart after this status, or it would do so for ever."""

MOVED = 4
"""From ``sync`` and ``attend``: the record names another node or another build, so the node's processes must restart."""

ASK_AGAIN = 20
"""From ``rekey``: the control plane is unavailable, and may create a key within seconds."""
