"""The planner's input: sizes and lifetimes, nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from memomalloc import _planner
from memomalloc.data.columns import (
    INT64_MAX,
    BoolArray,
    Int64Array,
    exact_sum,
    first_index,
    int64_column,
    read_only,
)
from memomalloc.errors import InvalidProblemError

MAX_BUFFERS = 2**27
"""More buffers than that are refused: the planners would need hundreds of bytes for each."""

MAX_TOTAL_BYTES = 2**61
"""Of all buffers one above the other. Sums of offsets and sizes then fit into 64 bits everywhere."""

MAX_ALIGNMENT = 2**31
"""Of an alignment in bytes; the least common multiple of two still fits into 64 bits."""


@dataclass(frozen=True, eq=False)
class Problem:
    """n buffers to place in one arena. Make one with `from_arrays`, which validates.

    A buffer of size 0 needs no space: it is planned at offset 0 (or at its pin) and overlaps nothing.

    Attributes:
        sizes: bytes, multiples of ``alignment_bytes``.
        starts: first tick of each lifetime.
        ends: first tick after each lifetime: lifetimes are half-open, [start, end).
        alignment_bytes: what every offset is a multiple of.
        alignments: bytes per buffer where they differ from each other, else None.
        pinned_offsets: the offset a buffer must get, -1 for a free one; None if no buffer is pinned.
        capacity_bytes: the largest arena that will do, if there is such a limit.
        ids: the caller's names of the buffers, for files and messages; None: their indices.
    """

    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    alignment_bytes: int = 64
    alignments: Int64Array | None = None
    pinned_offsets: Int64Array | None = None
    capacity_bytes: int | None = None
    ids: Sequence[Hashable] | None = None

    @classmethod
    def from_arrays(
        cls,
        sizes: ArrayLike,
        starts: ArrayLike,
        ends: ArrayLike,
        *,
        alignment_bytes: int = 64,
        alignments: ArrayLike | None = None,
        pinned_offsets: ArrayLike | None = None,
        capacity_bytes: int | None = None,
        ids: Sequence[Hashable] | None = None,
    ) -> Problem:
        """A validated problem; sizes are rounded up to ``alignment_bytes``.

        Args:
            sizes: n sizes in bytes, not negative.
            starts: n first ticks.
            ends: n first ticks after the lifetimes; ``starts[i] < ends[i]``.
            alignment_bytes: every offset will be a multiple of it. Any positive number; 64 is what torch needs.
            alignments: n alignments in bytes that the offsets keep in addition to ``alignment_bytes``.
            pinned_offsets: n offsets in bytes, -1 for a buffer that may go anywhere.
            capacity_bytes: the largest arena that will do.
            ids: n names of the buffers.

        Raises:
            InvalidProblemError: the message names the first buffer at fault.
        """
        columns = [int64_column("sizes", sizes), int64_column("starts", starts), int64_column("ends", ends)]
        n = len(columns[0])
        _require_length("starts", columns[1], n)
        _require_length("ends", columns[2], n)
        if n > MAX_BUFFERS:
            raise InvalidProblemError(f"{n} buffers are more than the {MAX_BUFFERS} that can be planned")
        if ids is not None and len(ids) != n:
            raise InvalidProblemError(f"ids has {len(ids)} entries for {n} buffers")
        _require_positive("alignment_bytes", alignment_bytes)
        if capacity_bytes is not None:
            require_whole_number("capacity_bytes", capacity_bytes)
        raw_sizes, starts_column, ends_column = columns
        _refuse("size", raw_sizes, raw_sizes < 0, "must not be negative", ids)
        empty = starts_column >= ends_column
        if empty.any():
            index = first_index(empty)
            raise InvalidProblemError(
                f"{_label(index, ids)}: its lifetime [{starts_column[index]}, {ends_column[index]}) is empty; "
                "the start must be below the end (lifetimes are half-open)"
            )

        per_buffer = _alignment_column(alignments, alignment_bytes, n, ids)
        alignment = np.int64(alignment_bytes) if per_buffer is None else per_buffer
        padding = -raw_sizes % np.int64(alignment_bytes)
        overflow = raw_sizes > INT64_MAX - padding
        _refuse("size", raw_sizes, overflow, "does not fit into 64 bits when rounded up to the alignment", ids)
        rounded = read_only(raw_sizes + padding)
        pins = _pin_column(pinned_offsets, alignment, rounded, n, ids)

        # The arena of a plan that reuses nothing, with padding before every buffer, must be a number.
        slack = 0 if per_buffer is None else exact_sum(per_buffer)
        highest_pin = 0 if pins is None else max(0, int(np.max(pins, initial=0)))
        if exact_sum(rounded) + slack + highest_pin > MAX_TOTAL_BYTES:
            where = _where_the_sum_exceeds(rounded, MAX_TOTAL_BYTES, ids)
            raise InvalidProblemError(
                f"{where}the sizes sum to more than the {MAX_TOTAL_BYTES} bytes that can be planned"
            )
        names = None if ids is None else tuple(ids)
        problem = cls(rounded, starts_column, ends_column, alignment_bytes, per_buffer, pins, capacity_bytes, names)
        if pins is not None:
            problem._refuse_overlapping_pins()
        return problem

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_buffers(self) -> int:
        """How many buffers there are to place."""
        return len(self.sizes)

    @cached_property
    def lower_bound_bytes(self) -> int:
        """What no arena can be below, in bytes.

        The largest sum of sizes alive at one tick, with the padding that alignments of single buffers make
        inevitable, or the end of the highest pin.
        """
        if self.alignments is not None:
            return _planner.lower_bound(self.sizes, self.starts, self.ends, self.alignments, self.pinned_offsets)
        peak = _planner.peak_live_bytes(self.sizes, self.starts, self.ends)
        if self.pinned_offsets is None:
            return peak
        pinned = (self.pinned_offsets >= 0) & (self.sizes > 0)
        return max(peak, int(np.max((self.pinned_offsets + self.sizes)[pinned], initial=0)))

    def label(self, index: int) -> str:
        """How messages name a buffer: its index, and its id where it has one."""
        return _label(index, self.ids)

    def _refuse_overlapping_pins(self) -> None:
        pins = self.pinned_offsets
        assert pins is not None
        pinned = np.flatnonzero(pins >= 0)
        first, second = _planner.find_overlap(
            self.sizes[pinned], self.starts[pinned], self.ends[pinned], np.ascontiguousarray(pins[pinned])
        )
        if first >= 0:
            raise InvalidProblemError(
                f"{self.label(int(pinned[first]))} and {self.label(int(pinned[second]))} are pinned to the same bytes "
                "while both are alive"
            )


def _label(index: int, ids: Sequence[Hashable] | None) -> str:
    return f"buffer {index}" if ids is None else f"buffer {index} (id {str(ids[index])[:60]})"


def require_whole_number(name: str, value: object) -> None:
    """Refuse what is no whole number between 0 and 2**63 - 1.

    Raises:
        InvalidProblemError: the message has the name.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= INT64_MAX:
        raise InvalidProblemError(f"{name} = {value!r:.60} must be a whole number between 0 and 2**63 - 1")


def _where_the_sum_exceeds(sizes: Int64Array, limit: int, ids: Sequence[Hashable] | None) -> str:
    total = 0
    for index, size in enumerate(sizes.tolist()):
        total += size
        if total > limit:
            return f"up to {_label(index, ids)} "
    return "with alignments and pins "


def _require_length(name: str, column: Int64Array, n: int) -> None:
    if len(column) != n:
        raise InvalidProblemError(f"{name} has {len(column)} entries, sizes has {n}")


def _require_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MAX_ALIGNMENT:
        raise InvalidProblemError(f"{name} = {value!r:.60} must be a whole number between 1 and {MAX_ALIGNMENT}")


def _refuse(name: str, column: Int64Array, faulty: BoolArray, rule: str, ids: Sequence[Hashable] | None) -> None:
    if faulty.any():
        index = first_index(faulty)
        raise InvalidProblemError(f"{_label(index, ids)}: {name} {column[index]} {rule}")


def _alignment_column(
    alignments: ArrayLike | None, alignment_bytes: int, n: int, ids: Sequence[Hashable] | None
) -> Int64Array | None:
    """What each buffer's offset must be a multiple of; None where that is ``alignment_bytes`` for all."""
    if alignments is None:
        return None
    column = int64_column("alignments", alignments)
    _require_length("alignments", column, n)
    faulty = (column < 1) | (column > MAX_ALIGNMENT)
    _refuse("alignment", column, faulty, f"must be between 1 and {MAX_ALIGNMENT}", ids)
    combined: Int64Array = np.lcm(column, np.int64(alignment_bytes))
    return None if (combined == alignment_bytes).all() else read_only(combined)


def _pin_column(
    pinned_offsets: ArrayLike | None,
    alignment: np.int64 | Int64Array,
    sizes: Int64Array,
    n: int,
    ids: Sequence[Hashable] | None,
) -> Int64Array | None:
    if pinned_offsets is None:
        return None
    pins = int64_column("pinned_offsets", pinned_offsets)
    _require_length("pinned_offsets", pins, n)
    _refuse("pinned offset", pins, pins < -1, "must be -1 (free) or not negative", ids)
    _refuse("pinned offset", pins, (pins > 0) & (pins % alignment != 0), "is not a multiple of the alignment", ids)
    _refuse("pinned offset", pins, pins > INT64_MAX - sizes, "leaves no room for the buffer in 64 bits", ids)
    return pins if (pins >= 0).any() else None
