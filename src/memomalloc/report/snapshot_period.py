"""The training step or inference that repeats in a history of allocations, and what a static plan of it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memomalloc.data.columns import BoolArray, Int64Array
from memomalloc.data.problem import Problem
from memomalloc.data.snapshot import ALIGNMENT_BYTES, SnapshotMemory
from memomalloc.errors import OptionError
from memomalloc.planners import plan
from memomalloc.report.live_bytes import LiveBytes

NUM_CANDIDATES = 64
"""Lengths of a period that are looked at; those that would explain most."""
LEAST_SHARE = 0.2
"""A period that explains less of the allocations is none."""


@dataclass(frozen=True, slots=True)
class Period:
    """Allocations that repeat, and a static plan of one repetition.

    Attributes:
        num_allocations: of one repetition.
        num_repetitions: whole ones, one after the other.
        covered_share: how much of all allocations they are.
        sizes_vary: only who asked repeats, not how much; the repetition with the most bytes is the one that is planned.
        start_tick: of the repetition that is planned; it begins where least is carried over from the one before.
        end_tick: the first tick after it.
        duration_us: of it; None where times were not recorded.
        lasting_bytes: what is there before, during and after: weights, optimizer states.
        kept_bytes: what each repetition allocates and never frees: the memory grows by it.
        arena_bytes: of the plan of all else.
        lower_bound_bytes: no plan of it can be smaller.
        planner: who planned.
        needed_bytes: lasting, kept and arena together.
        allocated_bytes: the most alive in it.
        reserved_bytes: the most reserved in it.
        saved_bytes: reserved but not needed.
    """

    num_allocations: int
    num_repetitions: int
    covered_share: float
    sizes_vary: bool
    start_tick: int
    end_tick: int
    duration_us: int | None
    lasting_bytes: int
    kept_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    planner: str
    needed_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """Allocations [first, last) of a sequence in which each is like the one ``length`` before, from the second on."""

    length: int
    first: int
    last: int

    @property
    def count(self) -> int:
        """How many whole ones there are."""
        return (self.last - self.first) // self.length


def find_repetition(tokens: Int64Array) -> Repetition | None:
    """The shortest period of the longest stretch of a sequence that repeats; None if there is none.

    Args:
        tokens: equal where two allocations are alike.
    """
    n = len(tokens)
    order = np.argsort(tokens, kind="stable")
    distances = np.diff(order)[np.diff(tokens[order]) == 0]
    lengths, counts = np.unique(distances, return_counts=True)
    # A distance that many have says more, and so does a long one, which explains all that lies between.
    candidates = lengths[np.argsort(-(lengths * counts), kind="stable")[:NUM_CANDIDATES]]
    found = [one for length in candidates.tolist() if (one := _longest_stretch(tokens, length)) is not None]
    found = [one for one in found if one.last - one.first >= LEAST_SHARE * n]
    if not found:
        return None
    longest = max(one.last - one.first for one in found)
    return min((one for one in found if one.last - one.first >= 0.9 * longest), key=lambda one: one.length)


def _longest_stretch(tokens: Int64Array, length: int) -> Repetition | None:
    """Where at least two periods of a length follow each other."""
    breaks = np.flatnonzero(tokens[:-length] != tokens[length:])
    edges = np.concatenate([[-1], breaks, [len(tokens) - length]])
    gaps = np.diff(edges) - 1
    at = int(np.argmax(gaps))
    if gaps[at] < length:
        return None
    first = int(edges[at]) + 1
    return Repetition(length, first, first + int(gaps[at]) + length)


def period_of(memory: SnapshotMemory, *, time_limit_s: float = 1.0) -> Period | None:
    """Find what repeats, and plan one repetition; None where nothing does.

    Args:
        memory: the history.
        time_limit_s: of the planner.
    """
    window = find_window(memory)
    if window is None:
        return None
    problem, lasting, kept = window.problem(memory)
    planned = plan(problem, time_limit_s=time_limit_s)
    lasting_bytes, kept_bytes = (int(_rounded(memory.sizes[which]).sum()) for which in (lasting, kept))
    reserved_bytes = _most(_reserved(memory), window.start_tick, window.end_tick)
    needed_bytes = lasting_bytes + kept_bytes + planned.arena_bytes
    times = (memory.time_us_at(window.start_tick), memory.time_us_at(min(window.end_tick, memory.end_tick - 1)))
    return Period(
        num_allocations=window.repetition.length,
        num_repetitions=window.repetition.count,
        covered_share=(window.repetition.last - window.repetition.first) / int((~memory.from_before).sum()),
        sizes_vary=window.sizes_vary,
        start_tick=window.start_tick,
        end_tick=window.end_tick,
        duration_us=None if times[0] is None or times[1] is None else times[1] - times[0],
        lasting_bytes=lasting_bytes,
        kept_bytes=kept_bytes,
        arena_bytes=planned.arena_bytes,
        lower_bound_bytes=planned.lower_bound_bytes,
        planner=planned.planner,
        needed_bytes=needed_bytes,
        allocated_bytes=_most(
            LiveBytes.of(memory.sizes, memory.starts, memory.ends), window.start_tick, window.end_tick
        ),
        reserved_bytes=reserved_bytes,
        saved_bytes=reserved_bytes - needed_bytes,
    )


@dataclass(frozen=True, eq=False)
class Window:
    """One repetition: buffers [first, last) of a memory, in ticks [start_tick, end_tick)."""

    repetition: Repetition
    repeated_first: int
    first: int
    last: int
    start_tick: int
    end_tick: int
    sizes_vary: bool

    def problem(
        self, memory: SnapshotMemory, alignment_bytes: int = ALIGNMENT_BYTES
    ) -> tuple[Problem, BoolArray, BoolArray]:
        """What a plan of it has to place; and which buffers are there all the time, and which are kept by it for ever.

        A buffer that is freed only in the next repetition has a place of its own in this one; one that lives still
        longer has as many as there are of it at one time.
        """
        index = np.arange(len(memory))
        inside = (index >= self.first) & (index < self.last)
        kept = inside & memory.escapes
        planned = np.flatnonzero(inside & ~memory.escapes)
        starts, ends = memory.starts[planned].copy(), memory.ends[planned].copy()
        length = self.end_tick - self.start_tick
        carried = ends > self.end_tick
        copies = np.where(carried, -(-(ends - starts) // length), 1)
        starts[carried], ends[carried] = self.start_tick, self.end_tick
        columns = (np.repeat(column, copies) for column in (memory.sizes[planned], starts, ends))
        # Those of earlier repetitions have the places that those of this one will have.
        earlier = (index >= self.repeated_first) & (index < self.first) & ~memory.escapes
        lasting = (memory.starts < self.start_tick) & (memory.ends > self.start_tick) & ~earlier
        return Problem.from_arrays(*columns, alignment_bytes=alignment_bytes), lasting, kept


def required_window(memory: SnapshotMemory) -> Window:
    """As `find_window`.

    Raises:
        OptionError: nothing repeats.
    """
    window = find_window(memory)
    if window is None:
        raise OptionError(f"nothing repeats in {memory.name}: take the whole history, without --period")
    return window


def find_window(memory: SnapshotMemory) -> Window | None:
    """The repetition to plan: not the first, nor the last if there are three, which may be unlike the others."""
    num_before = int(memory.from_before.sum())
    sizes, stacks, streams = (column[num_before:] for column in (memory.sizes, memory.stacks, memory.streams))
    if len(sizes) < 2:
        return None
    repetition = find_repetition(_tokens(sizes, stacks, streams))
    sizes_vary = repetition is None and bool((stacks >= 0).any())
    if sizes_vary:
        repetition = find_repetition(_tokens(np.zeros_like(sizes), stacks, streams))
    if repetition is None:
        return None
    length, first = repetition.length, num_before + repetition.first
    base = first + max(0, repetition.count - 3) * length
    if sizes_vary:
        bases = first + np.arange(max(1, repetition.count - 1)) * length
        sums = np.concatenate([[0], np.cumsum(memory.sizes)])
        base = int(bases[np.argmax(sums[bases + length] - sums[bases])])
    # It may begin anywhere: best where the least of it is alive.
    young = np.flatnonzero(~memory.escapes[first:]) + first
    live = LiveBytes.of(memory.sizes[young], memory.starts[young], memory.ends[young])
    phases = np.arange(base, min(base + length, num_before + repetition.last - length + 1))
    carried = _at(live, memory.starts[phases] - 1)
    begin = int(phases[np.argmin(carried)])
    end = begin + length
    end_tick = int(memory.starts[end]) if end < len(memory) else memory.end_tick
    return Window(repetition, first, begin, end, int(memory.starts[begin]), end_tick, sizes_vary)


def _tokens(*columns: Int64Array) -> Int64Array:
    """Small numbers that are equal where all columns are."""
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        _, codes = np.unique(column, return_inverse=True)
        _, found = np.unique(found * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)
    return found.astype(np.int64)


def _rounded(sizes: Int64Array) -> Int64Array:
    return -(-sizes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _reserved(memory: SnapshotMemory) -> LiveBytes:
    segments = memory.segments
    return LiveBytes.of(segments.sizes, segments.starts, segments.ends)


def _at(live: LiveBytes, ticks: Int64Array) -> Int64Array:
    """The value of the step function at some ticks; 0 before its first."""
    return np.append(live.live_bytes, 0)[np.searchsorted(live.ticks, ticks, side="right") - 1]


def _most(live: LiveBytes, start_tick: int, end_tick: int) -> int:
    """The largest value of the step function in [start_tick, end_tick)."""
    first = max(int(np.searchsorted(live.ticks, start_tick, side="right")) - 1, 0)
    last = int(np.searchsorted(live.ticks, end_tick))
    return int(live.live_bytes[first:last].max(initial=0))
