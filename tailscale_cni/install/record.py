"""The record of an installation (``stateDir/install.json``), which ``keep_in_step`` and ``uninstall`` read."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..state import files, records
from .conflist import TYPE


class Installation(NamedTuple):
    """Where ``install`` put our list and the plugin, and our entry of the list."""

    conf_dir: str
    bin_dir: str
    entry: dict[str, Any]
    version: int = records.VERSION
    unknown: str = ""
    """Fields of a newer version that this version does not know (``records``)."""

    @classmethod
    def load(cls, state_dir: str) -> Installation | None:
        """The record; None if nothing is installed. Raises UnreadableState, InputOutput."""
        return records.load(cls, _record(state_dir), parsers={"entry": _entry})

    def save(self, state_dir: str) -> None:
        """Write the record. Raises InputOutput."""
        path = _record(state_dir)
        if not files.is_replaceable(path):
            records.set_aside(state_dir, path)
        files.write(path, records.encode(self))


def _record(state_dir: str) -> str:
    return f"{state_dir}/install.json"


def _entry(value: Any) -> dict[str, Any]:
    """Check that a value is an entry of our plugin. The runtime rejects a list with an invalid entry. Raises ValueError."""
    if not isinstance(value, dict) or value.get("type", TYPE) != TYPE:
        raise ValueError("no entry of ours")
    for key in ("stateDir", "runDir", "configFile"):
        records.plain(value.get(key, ""), "")
    return {"type": TYPE, **value}
