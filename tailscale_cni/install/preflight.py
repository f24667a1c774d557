"""Check what a host needs before its pods can become nodes. STATUS and ``install`` use it, so it is local and fast."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import errors
from ..build import binaries

if TYPE_CHECKING:
    from ..config import Config

TUN_DEVICE = "/dev/net/tun"
NO_TUN = f"{TUN_DEVICE} does not exist"
LOAD_TUN = "Load the kernel module: 'modprobe tun'."


def check(config: Config) -> None:
    """Check that pods can be enrolled on this host. Raises NotAvailable, whose advice says what to do."""
    try:
        binaries.worker_binary()
        binaries.supervisor_binary()
    except errors.Error as e:
        raise errors.NotAvailable(reason=e, advice=e.advice) from None
    if not has_tun():
        raise errors.NotAvailable(reason=NO_TUN, advice=LOAD_TUN)
    nearest = config.state_dir
    while not os.path.isdir(nearest):  # ADD makes missing directories
        nearest = os.path.dirname(nearest)
    if not os.access(nearest, os.W_OK):
        raise errors.NotAvailable(
            reason=f"{nearest} is not writable", advice=f"Check its file system: 'findmnt -T {nearest}'."
        )


def has_tun() -> bool:
    """Whether the kernel's TUN device exists."""
    return os.path.exists(TUN_DEVICE)
