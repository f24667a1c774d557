"""STATUS: tell whether a pod can be enrolled on this host.

containerd asks every 5 s, and an error makes the Kubernetes node NotReady, which in the end costs it all of its pods. So a control plane
that is down is not an error, and neither is a mistake in ``config.yaml``: that stops only the pods that ask to be nodes.
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
    """Raise NotAvailable, which says what to do."""
    try:
        # With an entry that cannot be parsed, every ADD fails.
        config = load_config({**request.config, "configFile": os.devnull})
    except errors.Error as e:
        raise errors.NotAvailable(reason=e, advice=e.advice) from None
    preflight.check(config)
    keep_in_step(config)
    release.remind(config.state_dir)
