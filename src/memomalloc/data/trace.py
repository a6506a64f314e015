"""All that one recording saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from memomalloc import _planner
from memomalloc.data.calls import Calls
from memomalloc.data.columns import BoolArray, Int64Array, first_index, int64_column, read_only
from memomalloc.data.forms import form_of
from memomalloc.data.origin import Origin
from memomalloc.data.problem import Problem
from memomalloc.errors import InvalidProblemError


@dataclass(frozen=True, slots=True)
class TracedBuffer:
    """One buffer of a trace.

    Attributes:
        size_bytes: as requested, not rounded.
        start: tick of its allocation.
        end: tick of its free, or the end of the recording for an escape.
        escape: still alive when the recording ended.
        origin: who asked for it, where that was captured.
    """

    size_bytes: int
    start: int
    end: int
    escape: bool
    origin: Origin | None


@dataclass(frozen=True, eq=False)
class Trace:
    """The buffers of one recording in order of allocation, as parallel read-only arrays.

    Attributes:
        sizes: bytes as requested.
        starts: tick of each allocation, strictly increasing.
        ends: tick of each free (lifetimes are half-open); ``end_tick`` for an escape.
        escapes: still alive when the recording ended.
        end_tick: the tick at which the recording ended; no event is at or after it.
        origins: who asked, per buffer; None where that was not captured.
        smallest_sizes: the smallest request that each buffer stands for, in bytes; below ``sizes`` in merged traces.
        elsewhere_requests: allocations of other threads meanwhile, which belong to no buffer.
        elsewhere_bytes: their sizes, summed.
        calls: who read which buffer; None where that was not recorded, or cannot be known: compiled code, tensors whose
            memory is not to be seen (sparse ones, oneDNN's own), several threads, merged traces.
    """

    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    escapes: BoolArray
    end_tick: int
    origins: tuple[Origin | None, ...]
    smallest_sizes: Int64Array
    elsewhere_requests: int = 0
    elsewhere_bytes: int = 0
    calls: Calls | None = None

    @classmethod
    def from_arrays(
        cls,
        sizes: ArrayLike,
        starts: ArrayLike,
        ends: ArrayLike,
        escapes: ArrayLike | None = None,
        *,
        end_tick: int | None = None,
        origins: Sequence[Origin | None] | None = None,
        smallest_sizes: ArrayLike | None = None,
        elsewhere_requests: int = 0,
        elsewhere_bytes: int = 0,
        calls: Calls | None = None,
    ) -> Trace:
        """A validated trace.

        Args:
            sizes: n sizes in bytes.
            starts: n allocation ticks, strictly increasing.
            ends: n ticks of frees; those of escapes are replaced by ``end_tick``.
            escapes: n truth values; None: nothing escaped.
            end_tick: None: one past the last event.
            origins: n origins; None: not captured.
            smallest_sizes: n sizes in bytes; None: the sizes.
            elsewhere_requests: allocations of other threads meanwhile.
            elsewhere_bytes: their sizes, summed.
            calls: who read which buffer; None: not known.

        Raises:
            InvalidProblemError: the message names the first buffer at fault.
        """
        size_column = int64_column("sizes", sizes)
        start_column = int64_column("starts", starts)
        end_column = int64_column("ends", ends)
        n = len(size_column)
        escape_column = np.zeros(n, dtype=np.bool_) if escapes is None else np.array(escapes, dtype=np.bool_)
        origin_column = (None,) * n if origins is None else tuple(origins)
        smallest = size_column if smallest_sizes is None else int64_column("smallest_sizes", smallest_sizes)
        for name, column in [
            ("starts", start_column), ("ends", end_column), ("escapes", escape_column), ("origins", origin_column),
            ("smallest_sizes", smallest),
        ]:  # fmt: skip
            if len(column) != n:
                raise InvalidProblemError(f"{name} has {len(column)} entries, sizes has {n}")
        if end_tick is None:
            last = [int(column.max()) for column in (start_column + 1, end_column[~escape_column]) if len(column)]
            end_tick = max(last, default=0)
        ends_filled = np.where(escape_column, np.int64(end_tick), end_column)
        faults = [
            ("its size is negative", size_column < 0),
            ("its smallest size is not within its size", (smallest < 0) | (smallest > size_column)),
            ("it is not freed after its allocation", ends_filled <= start_column),
            ("it ends after the trace", ends_filled > end_tick),
            (
                "it is not allocated after the buffer before it",
                np.diff(start_column, prepend=start_column[:1] - 1) <= 0,
            ),
        ]
        for fault, where in faults:
            if where.any():
                raise InvalidProblemError(f"buffer {first_index(where)} of the trace: {fault}")
        if calls is not None:
            calls.check(start_column, int(end_tick))
        return cls(
            size_column,
            start_column,
            read_only(ends_filled),
            read_only(escape_column),
            int(end_tick),
            origin_column,
            smallest,
            elsewhere_requests,
            elsewhere_bytes,
            calls,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_buffers(self) -> int:
        """How many allocations were recorded."""
        return len(self.sizes)

    @property
    def buffers(self) -> Sequence[TracedBuffer]:
        """The buffers one by one, made when asked for."""
        return _TracedBuffers(self)

    @cached_property
    def peak_live_bytes(self) -> int:
        """The largest sum of requested sizes alive at one tick."""
        return _planner.peak_live_bytes(self.sizes, self.starts, self.ends)

    def problem(self, alignment_bytes: int = 64) -> Problem:
        """What there is to plan: an escape lives through the whole trace, since its place is never shared.

        Args:
            alignment_bytes: sizes are rounded up to it.
        """
        starts, ends = stretch_escapes(self.starts, self.ends, self.escapes)
        return Problem.from_arrays(self.sizes, starts, ends, alignment_bytes=alignment_bytes)

    def __repr__(self) -> str:
        # Not all columns: a session or a log would drown in them.
        return (
            f"Trace(num_buffers={len(self)}, num_escapes={int(self.escapes.sum())}, end_tick={self.end_tick}, "
            f"peak_live_bytes={self.peak_live_bytes})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return form_of(Trace).show(self)

    def save(self, path: str | Path) -> None:
        """Write a trace file, atomically; compressed when the name ends in ``.gz``."""
        form_of(Trace).write(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read and validate a trace file.

        Raises:
            FileFormatError: it is not a whole, undamaged trace file.
        """
        trace: Trace = form_of(Trace).read(path)
        return trace


def stretch_escapes(starts: Int64Array, ends: Int64Array, escapes: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Lifetimes in which every escape lives from the first tick to the last: it outlives its run."""
    if not escapes.any():
        return starts, ends
    return np.where(escapes, starts.min(), starts), np.where(escapes, ends.max(), ends)


class _TracedBuffers(Sequence[TracedBuffer]):
    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.sizes)

    @overload
    def __getitem__(self, index: int) -> TracedBuffer: ...
    @overload
    def __getitem__(self, index: slice) -> list[TracedBuffer]: ...
    def __getitem__(self, index: int | slice) -> TracedBuffer | list[TracedBuffer]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        trace = self._trace
        return TracedBuffer(
            int(trace.sizes[index]),
            int(trace.starts[index]),
            int(trace.ends[index]),
            bool(trace.escapes[index]),
            trace.origins[index],
        )
