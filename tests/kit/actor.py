"""What all actors have in common: they end with the block that they were made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Actor:
    """Something that was made for a test, and goes with it."""

    def close(self) -> None:
        """Take away what was made. Harmless when done twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
