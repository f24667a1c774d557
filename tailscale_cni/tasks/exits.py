"""The exit statuses of the tasks. workers/internal/exits has the same table, and a test compares the two.

During an upgrade, the supervisor of one build runs the tasks of another. So a number never changes its meaning.
"""

from __future__ import annotations

DONE = 0

RETRY_LATER = 1
"""The task failed. The supervisor runs it again, ever less often."""

GONE = 3
"""The attachment is gone, or its node must not run any more. Final for the unit, or systemd would restart it for ever."""

MOVED = 4
"""Of ``sync`` and ``attend``: the record names another node or another build, so the node's processes must start anew."""

ASK_AGAIN = 20
"""Of ``rekey``: the control plane is away, and may have a key within seconds."""
