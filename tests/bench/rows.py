"""The rows of the table: samples of the product and, in some rows, of an anchor, and a bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

T = TypeVar("T")
UNITS = {"s": 1.0, "ms": 1e-3, "MB": 1e6, "Gbit/s": 1e9, "": 1.0}
"""The factors from a table's unit to the unit of a sample, which is seconds, bytes, bits per second, or a count."""


@dataclass(frozen=True)
class Bound:
    """The bound of a median, an upper or a lower one, and optionally a lower bound of the lower quartile."""

    limit: float
    at_least: bool = False
    quartile: float | None = None

    def kept(self, values: Sequence[float]) -> bool:
        """Whether the values keep the bound. They are not rounded, unlike the figures in the table."""
        middle = statistics.median(values)
        if not self.at_least:
            return middle <= self.limit
        return middle >= self.limit and (self.quartile is None or quartiles(values)[0] >= self.quartile)

    def __str__(self) -> str:
        text = f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        return text if self.quartile is None else f"{text}, quartile ≥ {self.quartile:g}"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    With an ``anchor`` the figure is the median of the ratios of the rounds, so that disturbances of the machine affect both sides. Without
    an anchor it is the median of ``ours``.
    """

    letter: str
    what: str
    unit: str
    ours: tuple[float, ...]
    anchor: tuple[float, ...] | None
    bound: Bound | None
    """None in a row that is only for orientation."""

    @property
    def values(self) -> tuple[float, ...]:
        """The values that the bound applies to: a ratio for each round, or ``ours`` in the row's unit."""
        if self.anchor is not None:
            return tuple(mine / theirs for mine, theirs in zip(self.ours, self.anchor, strict=True))
        return tuple(value / UNITS[self.unit] for value in self.ours)

    @property
    def met(self) -> bool:
        """Whether the bound is kept; True without a bound."""
        return self.bound is None or self.bound.kept(self.values)

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON document, with the figures that are computed from it."""
        low, high = quartiles(self.values)
        figure = {"median": statistics.median(self.values), "quartiles": [low, high], "met": self.met}
        return {**asdict(self), **figure}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Row:
        """Create a row from a document of ``to_json``."""
        bound = document["bound"]
        anchor = document["anchor"]
        return cls(
            letter=document["letter"],
            what=document["what"],
            unit=document["unit"],
            ours=tuple(document["ours"]),
            anchor=None if anchor is None else tuple(anchor),
            bound=None if bound is None else Bound(**bound),
        )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def interleave(rounds: int, **contestants: Callable[[], T]) -> dict[str, tuple[T, ...]]:
    """A sample of each contestant in every round; every second round has the opposite order.

    Thus the effects that one contestant leaves behind (a warm cache, a busy core) affect each contestant equally often.
    """
    samples: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            samples[name].append(contestants[name]())
    return {name: tuple(values) for name, values in samples.items()}
