"""A trace, and what becomes of it where the program is changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memomalloc.data.calls import Calls
from memomalloc.data.columns import BoolArray, Int64Array
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.errors import AdviceError

#: In the order of events at one tick: a call that was moved there, what is freed after it, what was there.
_MOVED, _FREED, _AS_IT_WAS = 0, 1, 2


@dataclass(frozen=True)
class Edit:
    """What a change of the program does to the buffers of its trace.

    Attributes:
        freed: buffers that are freed earlier, each with the tick before whose event that is.
        merged: pairs of buffers; the second one takes the memory of the first.
        removed: buffers that are not asked for any more.
        moved: calls that are made earlier, as (begin, end, to): their events come before that of tick ``to``.
    """

    freed: tuple[tuple[int, int], ...] = ()
    merged: tuple[tuple[int, int], ...] = ()
    removed: tuple[int, ...] = ()
    moved: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What edits lead to.

    Attributes:
        peak_bytes: the largest sum of sizes alive at once.
        alive: for each buffer of the trace whether it is alive then.
        trace: makes the trace that the changed program would have.
    """

    peak_bytes: int
    alive: BoolArray
    _parts: tuple[Int64Array, Int64Array, Int64Array, BoolArray, int]

    def trace(self) -> Trace:
        """The trace of the changed program; it knows neither origins nor calls."""
        sizes, starts, ends, escapes, end_tick = self._parts
        order = np.argsort(starts, kind="stable")
        return Trace.from_arrays(sizes[order], starts[order], ends[order], escapes[order], end_tick=end_tick)


class Subject:
    """A trace whose calls are known, with what the search for changes asks about it.

    Args:
        trace: with calls.

    Raises:
        AdviceError: nobody recorded who read what.
    """

    def __init__(self, trace: Trace) -> None:
        if trace.calls is None:
            raise AdviceError(
                "this trace does not say who read its tensors: record the program again with "
                "memomalloc.record(calls=True), in one thread, without torch.compile and sparse tensors, and do not "
                "merge traces"
            )
        self.trace = trace
        self.calls: Calls = trace.calls
        n = len(trace)
        #: The call that made each buffer; -1: none did.
        self.makers = np.full(n, -1, dtype=np.int64)
        if len(self.calls):
            candidate = np.searchsorted(self.calls.ends, trace.starts, side="right")
            inside = np.minimum(candidate, len(self.calls) - 1)
            is_made = (candidate < len(self.calls)) & (self.calls.begins[inside] <= trace.starts)
            self.makers = np.where(is_made, inside, -1)
        #: The calls that read each buffer, in order.
        self.readers: list[list[int]] = [[] for _ in range(n)]
        #: The buffers that each call read, in the order of its arguments.
        self.reads: list[list[int]] = [[] for _ in range(len(self.calls))]
        for call, buffer in zip(self.calls.reading_calls.tolist(), self.calls.read_buffers.tolist(), strict=True):
            self.readers[buffer].append(call)
            self.reads[call].append(buffer)
        #: The buffers that each call made and left behind, and those that it made and freed.
        self.made: list[list[int]] = [[] for _ in range(len(self.calls))]
        self.scratch: list[list[int]] = [[] for _ in range(len(self.calls))]
        for buffer, call in enumerate(self.makers.tolist()):
            if call >= 0:
                is_scratch = not trace.escapes[buffer] and trace.ends[buffer] < self.calls.ends[call]
                (self.scratch if is_scratch else self.made)[call].append(buffer)

    def origin(self, call: int) -> Origin:
        """Who made a call; an origin that knows nothing where nobody noted it."""
        return self.calls.origins[call] or Origin(role="call")

    def end(self, call: int) -> int:
        """The first tick after a call."""
        return int(self.calls.ends[call])

    def last_call(self, buffer: int) -> int:
        """The call that made or read a buffer last; -1 where none did."""
        return self.readers[buffer][-1] if self.readers[buffer] else int(self.makers[buffer])

    def is_kept_by_autograd(self, buffer: int) -> bool:
        """Whether autograd may hold a buffer, whatever the program does with it."""
        tracked = self.calls.tracked
        return any(tracked[call] for call in (int(self.makers[buffer]), *self.readers[buffer]) if call >= 0)

    @cached_property
    def before(self) -> Outcome:
        """The trace as it is."""
        return self.outcome(())

    def outcome(self, edits: Iterable[Edit]) -> Outcome:
        """What the trace becomes when all of the edits are made together."""
        trace = self.trace
        n = len(trace)
        ticks = np.concatenate([trace.starts, trace.ends])
        order = np.full(2 * n, _AS_IT_WAS, dtype=np.int64)
        keys = np.stack([ticks, order, ticks])  # tick, order at that tick, tick in the trace
        removed = np.zeros(n, dtype=np.bool_)
        edits = tuple(edits)
        for begin, end, to in {move for edit in edits for move in edit.moved}:
            is_moved = (begin <= ticks) & (ticks < end)
            keys[0, is_moved], keys[1, is_moved] = to, _MOVED
        for buffer, tick in (free for edit in edits for free in edit.freed):
            if (tick, _FREED) < (keys[0, n + buffer], keys[1, n + buffer]):
                keys[:, n + buffer] = tick, _FREED, trace.end_tick
        for edit in edits:
            removed[list(edit.removed)] = True
        # Not before their allocations, which have the smaller index.
        sequence = np.lexsort((np.arange(2 * n), keys[2], keys[1], keys[0]))
        rank = np.empty(2 * n, dtype=np.int64)
        rank[sequence] = np.arange(2 * n)
        starts, ends, escapes = rank[:n], rank[n:], trace.escapes.copy()
        ends[escapes] = 2 * n
        root = np.arange(n)
        for first, second in sorted(
            (pair for edit in edits for pair in edit.merged), key=lambda pair: int(starts[pair[1]])
        ):
            into = root[first]
            root[second] = into
            ends[into] = max(ends[into], ends[second])
            escapes[into] |= escapes[second]
            removed[second] = True
        kept = ~removed
        sizes = trace.sizes[kept]
        peak, moment = _peak(sizes, starts[kept], ends[kept], 2 * n)
        alive = kept & (starts <= moment) & (moment < ends)
        return Outcome(peak, alive[root], (sizes, starts[kept], ends[kept], escapes[kept], 2 * n))


def _peak(sizes: Int64Array, starts: Int64Array, ends: Int64Array, end_tick: int) -> tuple[int, int]:
    """The largest sum of sizes alive at one tick, and the first such tick."""
    changes = np.zeros(end_tick + 1, dtype=np.int64)
    changes[starts] += sizes  # each at a tick of its own
    np.subtract.at(changes, ends, sizes)
    live = np.cumsum(changes)
    moment = int(np.argmax(live))
    return int(live[moment]), moment
