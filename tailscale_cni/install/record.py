"""The record of an installation (``stateDir/install.json``), which ``keep_in_step`` and ``uninstall`` read."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..state import files


class Installation(NamedTuple):
    """Where ``install`` put our list and the plugin, and our entry of the list."""

    conf_dir: str
    bin_dir: str
    entry: dict[str, Any]
    version: int = 1

    @classmethod
    def load(cls, state_dir: str) -> Installation | None:
        """The record; None if nothing is installed. Raises UnreadableState."""
        document = files.read_json(f"{state_dir}/install.json")
        if document is None:
            return None
        return cls(**{key: value for key, value in document.items() if key in cls._fields})

    def save(self, state_dir: str) -> None:
        """Write the record."""
        files.write_json(f"{state_dir}/install.json", self._asdict())
