"""STATUS: report whether a pod can be enrolled on this host.

containerd calls this every 5 s. An error makes the Kubernetes Node NotReady, which eventually evicts all of its pods. So a control plane
that is down is not an error. A mistake in ``config.yaml`` is not an error either, because it only affects pods that ask to be nodes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors
from ..config import load_config
from ..identity import release
from ..install import preflight
from ..install.keep_in_step import keep_in_step

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Raise NotAvailable, which says what to do, if no pod can be enrolled."""
    try:
        # With an entry that cannot be parsed, every ADD fails.
        config = load_config({**request.config, "configFile": os.devnull})
    except errors.Error as e:
        raise errors.NotAvailable(reason=e, advice=e.advice) from None
    preflight.check(config)
    keep_in_step(config)
    release.remind(config.state_dir)
