"""STATUS: tell whether a pod could be enrolled on this host.

Local and cheap: containerd asks every 5 s, and a failing answer makes the Kubernetes node NotReady, which in the end costs it all of its
pods. So a control plane that is down is never one, nor is a typing error in ``config.yaml``: that stops the pods that ask to be nodes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import artefact, errors
from ..config import Config
from . import returns, upkeep

if TYPE_CHECKING:
    from ..cni.request import Request


def run(request: Request) -> None:
    """Raises NotAvailable, which says what to do."""
    try:
        # Where the entry makes no sense, every ADD fails.
        config = Config.load({**request.config, "configFile": os.devnull})
        artefact.worker_binary()
        artefact.supervisor_binary()
    except errors.Error as e:
        raise errors.NotAvailable(reason=e, advice=e.advice) from None
    if not os.path.exists("/dev/net/tun"):
        raise errors.NotAvailable(
            reason="/dev/net/tun is not there", advice="Load the kernel's module: modprobe tun."
        )
    nearest = config.state_dir
    while not os.path.isdir(nearest):  # ADD makes what is missing
        nearest = os.path.dirname(nearest)
    if not os.access(nearest, os.W_OK):
        raise errors.NotAvailable(
            reason=f"{nearest} cannot be written to", advice="Look at its file system: 'findmnt -T' shows it."
        )
    upkeep.keep_in_step(config)
    returns.remind(config.state_dir)
