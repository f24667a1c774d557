"""What ``install`` did on this host: all that keeping the lists in step, and ``uninstall``, need."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..state import files


class Installation(NamedTuple):
    """Where the runtime reads lists and plugins from, and our entry as it goes into a list."""

    conf_dir: str
    bin_dir: str
    entry: dict[str, Any]
    version: int = 1

    @classmethod
    def load(cls, state_dir: str) -> Installation | None:
        """What was installed; None if nothing was. Raises UnreadableState."""
        document = files.read_json(f"{state_dir}/install.json")
        if document is None:
            return None
        return cls(**{key: value for key, value in document.items() if key in cls._fields})

    def save(self, state_dir: str) -> None:
        """Write it down."""
        files.write_json(f"{state_dir}/install.json", self._asdict())
