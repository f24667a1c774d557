"""CNI's five verbs. Each verb is one short module that calls the other packages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..cni.request import Request

MODULES = {"ADD": "add", "DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}


def load(command: str) -> Callable[[Request], Mapping[str, Any] | None]:
    """Import and return the verb of a CNI_COMMAND. Other verbs are not imported."""
    verb: Callable[[Request], Mapping[str, Any] | None] = import_module(f".{MODULES[command]}", __name__).run

    def run(request: Request) -> Mapping[str, Any] | None:
        from ..state import records  # the verb has imported it already

        records.warn_through(request.warn)
        return verb(request)

    return run


def log(entry: Mapping[str, Any], line: str) -> None:
    """Write a call's line to the host's ``logFile``, if one is configured."""
    from ..install.calllog import append

    append(entry, line)
