"""What grew from one placement to another, by who asked for it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from memomalloc.data.byte_text import byte_text
from memomalloc.data.origin import Origin
from memomalloc.report.groups import origin_name
from memomalloc.report.placement import Placement

DIFFERENCE_BY = ("origin", "module", "operator", "source", "role", "thread")
"""What changes can be told apart by; an origin is the operator in its module."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of both placements."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Change:
    """The buffers of one group, before and after.

    Attributes:
        name: of what they have in common.
        buffers_before: how many.
        buffers_after: how many.
        bytes_before: their sizes, summed.
        bytes_after: their sizes, summed.
        peak_bytes_before: those alive at the peak, summed.
        peak_bytes_after: those alive at the peak, summed.
    """

    name: str
    buffers_before: int = 0
    buffers_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    peak_bytes_before: int = 0
    peak_bytes_after: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """From one placement to another.

    Attributes:
        figures: of the whole: arena, lower bound, peak, sum, number of buffers.
        changes: of groups that are not as they were; what changed most at the peak first, then in total.
        num_unchanged: groups that are as they were.
    """

    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]
    num_unchanged: int

    def as_json(self) -> dict[str, Any]:
        """Ready for json."""
        return dataclasses.asdict(self)


def difference(before: Placement, after: Placement, by: str = "origin") -> Difference:
    """Compare two placements group by group.

    Args:
        before: one of them.
        after: the other.
        by: one of `DIFFERENCE_BY`. Buffers without an origin are told apart by their size.
    """
    changes, num_unchanged = changes_of(_groups(before, by), _groups(after, by))
    return Difference(_figures(before, after), changes, num_unchanged)


def changes_of(
    first: dict[str, tuple[int, int, int]], second: dict[str, tuple[int, int, int]]
) -> tuple[tuple[Change, ...], int]:
    """What changed from one set of groups to another, and how many groups did not.

    Args:
        first: number of buffers, bytes, and bytes at the peak of each group.
        second: the same, afterwards.
    """
    changes = [
        Change(
            name,
            *(
                number
                for pair in zip(first.get(name, (0, 0, 0)), second.get(name, (0, 0, 0)), strict=True)
                for number in pair
            ),
        )
        for name in sorted(first.keys() | second.keys())
    ]
    changed = [
        change
        for change in changes
        if (change.buffers_before, change.bytes_before) != (change.buffers_after, change.bytes_after)
    ]
    changed.sort(
        key=lambda change: (
            -abs(change.peak_bytes_after - change.peak_bytes_before),
            -abs(change.bytes_after - change.bytes_before),
        )
    )
    return tuple(changed), len(changes) - len(changed)


def _figures(before: Placement, after: Placement) -> tuple[Figure, ...]:
    figures = [Figure("arena", before.extent_bytes, after.extent_bytes)]
    if before.lower_bound_bytes is not None and after.lower_bound_bytes is not None:
        figures.append(Figure("lower bound", before.lower_bound_bytes, after.lower_bound_bytes))
    peaks = (before.live_bytes.peak_live_bytes, after.live_bytes.peak_live_bytes)
    figures.append(Figure("live at the peak", *peaks))
    figures.append(Figure("without reuse", int(before.sizes.sum()), int(after.sizes.sum())))
    figures.append(Figure("buffers", len(before), len(after)))
    return tuple(figures)


def _groups(placement: Placement, by: str) -> dict[str, tuple[int, int, int]]:
    """Number of buffers, bytes, and bytes at the peak of each group."""
    peak_tick = placement.live_bytes.peak_tick
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    columns = (placement.sizes.tolist(), placement.starts.tolist(), placement.ends.tolist())
    for origin, size, start, end in zip(placement.origins, *columns, strict=True):
        row = sums[group_name(origin, size, by)]
        row[0] += 1
        row[1] += size
        row[2] += size if start <= peak_tick < end else 0
    return {name: (row[0], row[1], row[2]) for name, row in sums.items()}


def group_name(origin: Origin | None, size_bytes: int, by: str) -> str:
    """The group that a buffer is in; ``by`` is one of `DIFFERENCE_BY`."""
    if origin is None:
        return f"buffers of {byte_text(size_bytes)}"
    if by != "origin":
        return origin_name(origin, by)
    role = "" if origin.role == "output" else f" ({origin.role})"
    return f"{origin_name(origin, 'module')}: {origin.operator}{role}"
