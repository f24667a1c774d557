"""What ``install`` did on this host: what keeping the network lists in step, and ``uninstall``, need to know."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..conflist import TYPE
from . import files, records


class Installation(NamedTuple):
    """Where the runtime reads network lists and finds plugins, and our entry as it goes into a list."""

    conf_dir: str
    bin_dir: str
    entry: dict[str, Any]
    version: int = records.VERSION
    unknown: str = ""
    """What a newer version wrote and this one does not know (``records``)."""

    @classmethod
    def load(cls, state_dir: str) -> Installation | None:
        """What was installed; None if nothing was. Raises UnreadableState, InputOutput."""
        return records.load(cls, _record(state_dir), parsers={"entry": _entry})

    def save(self, state_dir: str) -> None:
        """Write it down. Raises InputOutput."""
        path = _record(state_dir)
        if not files.is_replaceable(path):
            records.set_aside(state_dir, path)
        files.write(path, records.encode(self))


def _record(state_dir: str) -> str:
    return f"{state_dir}/install.json"


def _entry(value: Any) -> dict[str, Any]:
    """Our entry. The runtime takes no list that has another thing in it, and then no pod has a network. Raises ValueError."""
    if not isinstance(value, dict) or value.get("type", TYPE) != TYPE:
        raise ValueError("no entry of ours")
    for key in ("stateDir", "runDir", "configFile"):
        records.plain(value.get(key, ""), "")
    return {"type": TYPE, **value}
