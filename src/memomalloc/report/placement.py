"""What a memory map shows: buffers, when each lived, and where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from memomalloc.data.columns import BoolArray, Int64Array, int64_column, read_only
from memomalloc.data.origin import Origin
from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import InvalidPlanError
from memomalloc.report.live_bytes import LiveBytes

MAX_GAP_BYTES = 2**16
"""What is shown of a range of addresses that no buffer ever used."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The part of a placement that one thread has for itself.

    Attributes:
        thread: its name.
        offset: where it begins, in bytes.
        size_bytes: of all of it.
    """

    thread: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A time with a name, above the curve.

    Attributes:
        name: what the program called it.
        start: its first tick.
        end: the first tick after it; of a moment that of the start.
        depth: how many others are around it.
        is_moment: it has no length.
        is_failure: memory ran out then.
    """

    name: str
    start: int
    end: int
    depth: int
    is_moment: bool = False
    is_failure: bool = False


@dataclass(frozen=True, eq=False)
class Reserved:
    """What an allocator had reserved around its buffers: n ranges of offsets over half-open ticks.

    Attributes:
        offsets: as those of the buffers.
        sizes: bytes.
        starts: the first tick of each.
        ends: the first tick after each.
    """

    offsets: Int64Array
    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array

    @cached_property
    def bytes(self) -> LiveBytes:
        """How many bytes are reserved when."""
        return LiveBytes.of(self.sizes, self.starts, self.ends)


@dataclass(frozen=True, eq=False)
class Placement:
    """Buffers with lifetimes and offsets: a plan, or the addresses that an allocator really gave.

    Attributes:
        title: which one it is, where several are shown.
        sizes: bytes.
        starts: first tick of each lifetime.
        ends: first tick after each lifetime.
        escapes: the buffer outlives the run.
        offsets: bytes from the lowest one.
        origins: who asked, per buffer; None where that is not known.
        extent_bytes: the end of the highest buffer: the arena, for a plan.
        lower_bound_bytes: no plan can be smaller; None where nobody planned.
        planner: who placed them.
        proven_optimal: no smaller extent is possible.
        whole: of all buffers, how many bytes are alive when, where these are not all; None: they are.
        reserved: what was reserved around them; None where that is not known, or nothing was.
        note: how the buffers stand for others, for a person; empty: they are all there are.
        trace: of the program that asked for them, where there is one.
        lanes: of each thread, where there are several, from the lowest one; else empty.
        marks: what the program said of times, in order.
    """

    title: str
    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    escapes: BoolArray
    offsets: Int64Array
    origins: tuple[Origin | None, ...]
    extent_bytes: int
    lower_bound_bytes: int | None
    planner: str
    proven_optimal: bool = False
    whole: LiveBytes | None = None
    reserved: Reserved | None = None
    note: str = ""
    trace: Trace | None = None
    lanes: tuple[Lane, ...] = ()
    marks: tuple[Mark, ...] = ()

    @classmethod
    def of_plan(cls, plan: Plan, *, trace: Trace | None = None, title: str | None = None) -> Placement:
        """Where a plan puts its buffers.

        Args:
            plan: n buffers.
            trace: what the plan was made from, for the origins; None: they are not known.
            title: None: the planner.

        Raises:
            InvalidPlanError: the trace is of other buffers.
        """
        if trace is not None and (difference := _difference(plan, trace)):
            raise InvalidPlanError(f"the plan was not made from this trace ({difference}): plan the trace again")
        return cls(
            title=title or plan.planner,
            sizes=plan.sizes,
            starts=plan.starts,
            ends=plan.ends,
            escapes=plan.escapes,
            offsets=plan.offsets,
            origins=(None,) * len(plan) if trace is None else trace.origins,
            extent_bytes=plan.arena_bytes,
            lower_bound_bytes=plan.lower_bound_bytes,
            planner=plan.planner,
            proven_optimal=plan.proven_optimal,
            trace=trace,
        )

    @classmethod
    def of_addresses(cls, trace: Trace, addresses: ArrayLike, *, title: str = "upstream") -> Placement:
        """Where an allocator really put the buffers of a trace.

        Addresses that no buffer ever used are left out, but for `MAX_GAP_BYTES` of each gap: a heap and its mappings
        lie terabytes apart.

        Args:
            trace: n buffers.
            addresses: n addresses in bytes.
            title: the allocator.

        Raises:
            InvalidPlanError: another number of addresses.
        """
        column = int64_column("addresses", addresses)
        if len(column) != len(trace):
            raise InvalidPlanError(f"{len(column)} addresses for {len(trace)} buffers")
        offsets = offsets_without_gaps(column, trace.sizes)
        return cls(
            title=title,
            sizes=trace.sizes,
            starts=trace.starts,
            ends=trace.ends,
            escapes=trace.escapes,
            offsets=offsets,
            origins=trace.origins,
            extent_bytes=int((offsets + trace.sizes).max(initial=0)),
            lower_bound_bytes=None,
            planner=title,
            trace=trace,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def has_origins(self) -> bool:
        """Whether it is known who asked for any of the buffers."""
        return any(origin is not None for origin in self.origins)

    @property
    def elsewhere_requests(self) -> int:
        """Allocations of threads that were not recorded, which no buffer shows."""
        return 0 if self.trace is None else self.trace.elsewhere_requests

    @property
    def elsewhere_bytes(self) -> int:
        """Their sizes, summed."""
        return 0 if self.trace is None else self.trace.elsewhere_bytes

    @property
    def first_tick(self) -> int:
        """The first tick at which anything is alive; 0 if nothing ever is."""
        return int(self.starts.min()) if len(self) else 0

    @cached_property
    def live_bytes(self) -> LiveBytes:
        """How many bytes are alive when."""
        return self.whole or LiveBytes.of(self.sizes, self.starts, self.ends)

    @cached_property
    def alive_at_peak(self) -> Int64Array:
        """Indices of the buffers that are alive at the peak, the largest first."""
        tick = self.live_bytes.peak_tick
        alive = np.flatnonzero((self.starts <= tick) & (tick < self.ends))
        return alive[np.argsort(-self.sizes[alive], kind="stable")]


def _difference(plan: Plan, trace: Trace) -> str:
    """In what a plan and a trace differ, of which one cannot be from the other; empty if they do not."""
    if len(plan) != len(trace):
        return f"it has {len(plan)} buffers, the trace {len(trace)}"
    sizes = trace.problem(plan.alignment_bytes).sizes
    for what, planned, traced in (
        ("size", plan.sizes, sizes),
        ("first tick", plan.starts, trace.starts),
        ("last tick", plan.ends, trace.ends),
        # An output that a program gives back before its next call may share its bytes in a plan.
        ("escape", plan.escapes | trace.escapes, trace.escapes),
    ):
        differing = np.flatnonzero(planned != traced)
        if len(differing):
            i = differing[0]
            return f"the {what} of buffer {i} is {planned[i]} in it, {traced[i]} in the trace"
    return ""


def offsets_without_gaps(addresses: Int64Array, sizes: Int64Array) -> Int64Array:
    """Addresses as offsets from the lowest; of what no range uses only `MAX_GAP_BYTES` are left."""
    order = np.argsort(addresses, kind="stable")
    starts = addresses[order]
    used_up_to = np.maximum.accumulate(starts + sizes[order])
    gaps = np.zeros_like(starts)
    gaps[1:] = np.maximum(starts[1:] - used_up_to[:-1], 0)
    left_out = np.cumsum(np.maximum(gaps - MAX_GAP_BYTES, 0))
    offsets = np.empty_like(starts)
    offsets[order] = starts - starts[:1] - left_out
    return read_only(offsets)
