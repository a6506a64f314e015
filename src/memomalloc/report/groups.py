"""Buffers in groups: by module, operator, source line, role, thread or size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memomalloc.data.columns import Int64Array
from memomalloc.data.origin import Origin
from memomalloc.report.placement import Placement

BY = ("module", "operator", "source", "role", "thread", "size")
"""What buffers can be grouped by."""

NO_MODULE = "(no module)"
ONE_THREAD = "(one thread)"
UNKNOWN = "(unknown)"
SIZE_CLASSES = (
    "up to 1 KiB",
    "1 to 16 KiB",
    "16 to 64 KiB",
    "64 to 256 KiB",
    "256 KiB to 1 MiB",
    "1 to 4 MiB",
    "4 to 16 MiB",
    "16 to 64 MiB",
    "above 64 MiB",
)
_SIZE_LIMITS = (2**10, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24, 2**26)
_ENOUGH_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """The buffers of one module, operator, source line, role or size.

    Attributes:
        name: of what they have in common.
        num_buffers: how many.
        total_bytes: their sizes, summed, whether alive together or not.
        largest_bytes: the largest of them.
        peak_bytes: those alive at the peak of the whole placement, summed.
    """

    name: str
    num_buffers: int
    total_bytes: int
    largest_bytes: int
    peak_bytes: int


def group_names(placement: Placement, by: str, depth: int | None = None) -> list[str]:
    """The group of each buffer.

    Args:
        placement: n buffers.
        by: one of `BY`.
        depth: with ``by="module"``, how many parts of the path count; None: all.
    """
    if by == "size":
        return [SIZE_CLASSES[i] for i in np.searchsorted(_SIZE_LIMITS, placement.sizes).tolist()]
    names = {origin: origin_name(origin, by, depth) for origin in set(placement.origins)}
    return [names[origin] for origin in placement.origins]


def origin_name(origin: Origin | None, by: str, depth: int | None = None) -> str:
    """The group that a buffer of this origin is in; ``by`` is not ``"size"``."""
    return UNKNOWN if origin is None else _NAMES[by](origin, depth)


def default_by(placements: Sequence[Placement]) -> str:
    """What tells most: the module where any is known, else the size."""
    return "module" if any(placement.has_origins for placement in placements) else "size"


def default_depth(placement: Placement) -> int:
    """The depth of module paths from which on there are some groups, none with more than half of all bytes."""
    sizes: Counter[str] = Counter()
    for origin, size in zip(placement.origins, placement.sizes.tolist(), strict=True):
        if origin is not None:
            sizes[origin.module_path] += size
    deepest = max((path.count(".") + 1 for path in sizes), default=1)
    for depth in range(1, deepest):
        heads: Counter[str] = Counter()
        for path, size in sizes.items():
            heads[_head(path, depth)] += size
        if len(heads) >= _ENOUGH_GROUPS and max(heads.values()) * 2 <= heads.total():
            return depth
    return deepest


def groups(placement: Placement, by: str, depth: int | None = None) -> list[Group]:
    """All groups; what counts most at the peak first, then what is largest in total.

    Args:
        placement: the buffers.
        by: one of `BY`.
        depth: with ``by="module"``, how many parts of the path count; None: all.
    """
    names = np.array(group_names(placement, by, depth), dtype=object)
    unique, which = np.unique(names, return_inverse=True)
    at_peak = np.zeros(len(placement), dtype=np.int64)
    at_peak[placement.alive_at_peak] = placement.sizes[placement.alive_at_peak]
    largest = np.zeros(len(unique), dtype=np.int64)
    np.maximum.at(largest, which, placement.sizes)
    columns = (np.bincount(which, minlength=len(unique)), _sums(which, placement.sizes, len(unique)), largest)
    rows = zip(unique, *columns, _sums(which, at_peak, len(unique)), strict=True)
    found = [Group(str(name), *(int(number) for number in numbers)) for name, *numbers in rows]
    return sorted(found, key=lambda group: (-group.peak_bytes, -group.total_bytes, group.name))


def _sums(which: Int64Array, values: Int64Array, num_groups: int) -> Int64Array:
    sums = np.zeros(num_groups, dtype=np.int64)
    np.add.at(sums, which, values)
    return sums


def _head(path: str, depth: int | None) -> str:
    return ".".join(path.split(".")[:depth])


_NAMES: dict[str, Callable[[Origin, int | None], str]] = {
    "module": lambda origin, depth: _head(origin.module_path, depth) or NO_MODULE,
    "operator": lambda origin, _: origin.operator or UNKNOWN,
    "source": lambda origin, _: UNKNOWN if origin.source is None else f"{origin.source.file}:{origin.source.line}",
    "role": lambda origin, _: origin.role,
    "thread": lambda origin, _: origin.thread or ONE_THREAD,
}
