"""The exit statuses of the tasks, as workers/cmd/supervisor understands them; a test compares both."""

from __future__ import annotations

DONE = 0

NOTHING_TO_RUN = 3
"""The attachment is gone, or its node is not to run any more. Final for the unit, so that systemd does not restart it for ever."""

RESTART_AS_RECORDED = 4
"""Of ``sync`` and ``attend``: the record names another node or another build, so the node's processes must start anew."""

ASK_AGAIN_SOON = 11
"""Of ``rekey``: the control plane may have a key within seconds."""
