"""The APIs from which this host's nodes get their auth keys."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import errors
from ..config import load_config
from ..control import select
from ..control.select import ApiRef
from ..install.record import Installation
from ..state.attachments import Attachments

if TYPE_CHECKING:
    from collections.abc import Iterator


def in_use(state_dir: str) -> list[ApiRef]:
    """The APIs of the host's nodes, and the API that is configured for the next node; each credential once."""
    found = [*map(ApiRef.of, Attachments(state_dir).all()), *_configured(state_dir)]
    different = dict.fromkeys(api._replace(user="", key_seconds=0) for api in found)
    return [api for api in different if api.provider != select.STATIC]


def _configured(state_dir: str) -> Iterator[ApiRef]:
    with contextlib.suppress(
        errors.Error
    ):  # 'tailscale-cni config' explains what is wrong with a configuration
        installed = Installation.load(state_dir)
        if installed:
            yield select.configured(load_config(installed.entry))
