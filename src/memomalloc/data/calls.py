"""Which operator read which buffer of a trace, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from memomalloc.data.columns import BoolArray, Int64Array, first_index, int64_column, read_only
from memomalloc.data.origin import Origin
from memomalloc.errors import InvalidProblemError

#: Calls that are looked at together, so that the look takes little memory.
_CHECKED_AT_ONCE = 2**16


@dataclass(frozen=True, eq=False)
class Calls:
    """The calls of operators that no other operator made, in the order of their ends, as parallel read-only arrays.

    A call made the buffers that were allocated at a tick of ``[begin, end)``. What it read are its arguments and
    those of the operators inside it, as far as they are buffers of the trace that were there before it began.

    Attributes:
        begins: n ticks: of the first event that may be the call's.
        ends: n ticks: of the first event after it.
        origins: who called: the outermost operator, module path and source line; the role is ``call``.
        frames: what tells the frame of the program that called from all others; 0 where it is not known.
        tracked: whether autograd may keep what the call read or made.
        read_counts: how many buffers each call read.
        read_buffers: the indices of those, call by call.
        outside_counts: how many arguments each call had that are no buffers of the trace, or are parameters.
        outside_bytes: the bytes of those, call by call.
    """

    begins: Int64Array
    ends: Int64Array
    origins: tuple[Origin | None, ...]
    frames: Int64Array
    tracked: BoolArray
    read_counts: Int64Array
    read_buffers: Int64Array
    outside_counts: Int64Array
    outside_bytes: Int64Array

    @classmethod
    def from_arrays(
        cls,
        begins: ArrayLike,
        ends: ArrayLike,
        *,
        origins: Sequence[Origin | None] | None = None,
        frames: ArrayLike | None = None,
        tracked: ArrayLike | None = None,
        read_counts: ArrayLike,
        read_buffers: ArrayLike,
        outside_counts: ArrayLike | None = None,
        outside_bytes: ArrayLike = (),
    ) -> Calls:
        """Validated calls. Arguments as the attributes; None: not known, or none.

        Raises:
            InvalidProblemError: the message names the first call at fault.
        """
        begin_column = int64_column("begins", begins)
        n = len(begin_column)
        nothing = np.zeros(n, dtype=np.int64)
        tracked_column = nothing.astype(np.bool_) if tracked is None else np.array(tracked, dtype=np.bool_)
        columns = {
            "begins": begin_column,
            "ends": int64_column("ends", ends),
            "frames": int64_column("frames", nothing if frames is None else frames),
            "read_counts": int64_column("read_counts", read_counts),
            "outside_counts": int64_column("outside_counts", nothing if outside_counts is None else outside_counts),
        }
        for name, column in columns.items():
            if len(column) != n:
                raise InvalidProblemError(f"{name} has {len(column)} entries, begins has {n}")
            _refuse(f"{name} is negative", column < 0)
        origin_column = (None,) * n if origins is None else tuple(origins)
        for name, others in (("origins", origin_column), ("tracked", tracked_column)):
            if len(others) != n:
                raise InvalidProblemError(f"{name} has {len(others)} entries, begins has {n}")
        _refuse("it ends before it begins", columns["ends"] < begin_column)
        _refuse("it ends before the call before it", np.diff(columns["ends"], prepend=columns["ends"][:1]) < 0)
        read_column, outside_column = (
            int64_column("read_buffers", read_buffers),
            int64_column("outside_bytes", outside_bytes),
        )
        for name, column in (("read", read_column), ("outside", outside_column)):
            counted = int(columns[f"{name}_counts"].sum())
            if counted != len(column):
                raise InvalidProblemError(f"{name}_counts count {counted}, but there are {len(column)}")
            if (column < 0).any():
                raise InvalidProblemError(f"{name}[{first_index(column < 0)}] of the calls is negative")
        return cls(
            begin_column,
            columns["ends"],
            origin_column,
            columns["frames"],
            read_only(tracked_column),
            columns["read_counts"],
            read_column,
            columns["outside_counts"],
            outside_column,
        )

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def reading_calls(self) -> Int64Array:
        """For each of ``read_buffers`` the call that read it."""
        return read_only(np.repeat(np.arange(len(self)), self.read_counts))

    @property
    def outside_calls(self) -> Int64Array:
        """For each of ``outside_bytes`` the call that it was an argument of."""
        return read_only(np.repeat(np.arange(len(self)), self.outside_counts))

    def check(self, starts: Int64Array, end_tick: int) -> None:
        """See that they can be calls of a trace.

        Args:
            starts: the ticks at which the buffers of the trace are allocated.
            end_tick: at which it ends.

        Raises:
            InvalidProblemError: they cannot.
        """
        _refuse("it ends after the trace", self.ends > end_tick)
        if (self.read_buffers >= len(starts)).any():
            raise InvalidProblemError(f"a call reads buffer {int(self.read_buffers.max())}, of {len(starts)}")
        until = np.cumsum(self.read_counts)
        for first in range(0, len(self), _CHECKED_AT_ONCE):
            calls = slice(first, first + _CHECKED_AT_ONCE)
            counts = self.read_counts[calls]
            last = int(until[calls][-1])
            read = self.read_buffers[last - int(counts.sum()) : last]
            is_late = starts[read] >= np.repeat(self.begins[calls], counts)
            if is_late.any():
                call = first + int(np.repeat(np.arange(len(counts)), counts)[first_index(is_late)])
                raise InvalidProblemError(f"call {call} of the trace reads a buffer that is allocated after it began")


def _refuse(fault: str, where: BoolArray) -> None:
    if where.any():
        raise InvalidProblemError(f"call {first_index(where)} of the trace: {fault}")
