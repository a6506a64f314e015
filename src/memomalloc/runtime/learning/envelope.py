"""The sizes that the calls of a plan are known to be within."""

from __future__ import annotations

from collections.abc import Sequence

#: How much larger than anything seen the calls of a plan may be whose shapes vary: plans then grow a few times, not
#: with each new longest input.
ROOM_TO_GROW = 1.25


class Envelope:
    """The sizes that the calls of a plan are known to be within, number by number."""

    def __init__(self) -> None:
        self._lowest: list[int] | None = None
        self._highest: list[int] = []

    @property
    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest sizes of the calls that were recorded."""
        return tuple(self._lowest or ()), tuple(self._highest)

    def covers(self, sizes: Sequence[int]) -> bool:
        """Whether a call of these sizes needs no more than what was recorded."""
        if self._lowest is None:
            return False
        excess = 1.0
        for size, low, high in zip(sizes, self._lowest, self._highest, strict=True):
            if size > high:
                excess *= size / max(high, 1)
            if low == high != size:
                return False
        # Buffers may grow as the product of two sizes, or as the square of one.
        return excess * excess <= ROOM_TO_GROW

    def add(self, sizes: Sequence[int]) -> None:
        """A call of these sizes was recorded."""
        if self._lowest is None:
            self._lowest, self._highest = list(sizes), list(sizes)
        else:
            self._lowest = [min(pair) for pair in zip(self._lowest, sizes, strict=True)]
            self._highest = [max(pair) for pair in zip(self._highest, sizes, strict=True)]
