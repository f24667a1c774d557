"""The base class of all actors: they end with the block that they were made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Actor:
    """An object that a test creates, and that is removed at the end of a block."""

    def close(self) -> None:
        """Remove what was created. A second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
