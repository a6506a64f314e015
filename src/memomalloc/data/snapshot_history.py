"""From the events of a device to its buffers and segments over time; the beginning may be lost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from memomalloc.data.columns import BoolArray, Int64Array
from memomalloc.data.snapshot import Oddities

ALLOC, FREE_REQUESTED, FREE_COMPLETED = 0, 1, 2
SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP = 3, 4, 5, 6
OUT_OF_MEMORY, ANNOTATE, OTHER = 8, 9, 10
_ALIVE = np.iinfo(np.int64).max
"""The event that ends what is alive at the end."""


@dataclass(frozen=True, eq=False)
class Events:
    """The events of one device, in order, as columns of equal length; see ``csrc/snapshot``."""

    action: Int64Array
    address: Int64Array
    size: Int64Array
    stream: Int64Array
    stack: Int64Array
    pool: Int64Array


@dataclass(frozen=True, eq=False)
class LastBuffers:
    """What lives in the last state: address, requested size, stream, call stack and pool of each, by address."""

    address: Int64Array
    size: Int64Array
    stream: Int64Array
    stack: Int64Array
    pool: Int64Array


@dataclass(frozen=True, eq=False)
class Buffers:
    """Buffers by tick of allocation, as `data.snapshot.SnapshotMemory` has them, with the index of each one's pool."""

    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    escapes: BoolArray
    addresses: Int64Array
    streams: Int64Array
    stacks: Int64Array
    pools: Int64Array
    from_before: BoolArray
    num_before: int
    oddities: Oddities


def buffers_of(events: Events, last: LastBuffers, *, has_last: bool) -> Buffers:
    """Pair allocations with frees, and find what was there before. O(n log n), without a loop in Python.

    Args:
        events: n of them.
        last: what lives at the end.
        has_last: the last state is known; else nothing is concluded from what it lacks.
    """
    places = np.flatnonzero(events.action <= FREE_COMPLETED)
    order = places[np.argsort(events.address[places], kind="stable")]
    address, action = events.address[order], events.action[order]
    n = len(order)
    begins = np.flatnonzero(np.diff(address, prepend=address[:1] - 1) != 0)
    # Of each event in this order: where the events of its address end.
    group_ends = np.append(begins, n)[1:]
    group_end = np.repeat(group_ends, group_ends - begins)
    allocs, requests = np.flatnonzero(action == ALLOC), np.flatnonzero(action == FREE_REQUESTED)
    completions = np.flatnonzero(action == FREE_COMPLETED)
    trusts_completions = len(completions) > 0

    def next_of(candidates: Int64Array, after: Int64Array, before: Int64Array) -> Int64Array:
        """The first candidate from ``after`` on; ``n`` where it is not before ``before``."""
        padded = np.append(candidates, n)
        found = padded[np.searchsorted(candidates, after)]
        return np.where(found < before, found, n)

    def end_of(after: Int64Array, until: Int64Array, is_reused: BoolArray) -> tuple[Int64Array, BoolArray]:
        """The event that ends each buffer whose frees lie in [after, until), and whether that event is no free."""
        completed, requested = next_of(completions, after, until), next_of(requests, after, until)
        # Freed, but waiting for another stream, is alive; unless the file has no completions at all.
        by_request = (requested < n) & (is_reused | (not trusts_completions))
        places_of = np.append(order, _ALIVE)
        end = np.where(completed < n, places_of[completed], np.where(by_request, places_of[requested], _ALIVE))
        unseen = (end == _ALIVE) & is_reused
        end = np.where(unseen, places_of[np.minimum(until, n)], end)
        return end, unseen

    reused = np.append(allocs[1:], n)
    until = np.minimum(reused, group_end[allocs])
    ends, unseen = end_of(allocs + 1, until, (reused < n) & (reused < group_end[allocs]))

    # Frees before any allocation of an address: a buffer from before the first event.
    first_alloc = next_of(allocs, begins, group_ends)
    is_before = action[begins] != ALLOC
    old, old_until = begins[is_before], np.minimum(first_alloc, group_ends)[is_before]
    old_ends, _ = end_of(old, old_until, first_alloc[is_before] < n)

    num_frees = len(completions) if trusts_completions else len(requests)
    used = np.append(ends[~unseen], old_ends)
    kind = FREE_COMPLETED if trusts_completions else FREE_REQUESTED
    ended = used[used != _ALIVE]
    extra = num_frees - int((events.action[ended] == kind).sum())

    # What lives at the end and was neither allocated nor freed in the file was there before, too.
    alive_addresses = np.concatenate([address[allocs[ends == _ALIVE]], address[old[old_ends == _ALIVE]]])
    unexplained = ~np.isin(last.address, alive_addresses)
    # By address; the event that ends what was freed tells its size and stream, but not who had asked for it.
    freed = order[old]
    before = np.argsort(np.concatenate([address[old], last.address[unexplained]]), kind="stable")

    def old_column(of_events: Int64Array, of_last: Int64Array) -> Int64Array:
        return np.concatenate([of_events, of_last[unexplained]])[before]

    k = len(before)
    born = order[allocs]
    by_birth = np.argsort(born)

    def column(of_events: Int64Array, of_last: Int64Array) -> Int64Array:
        return np.concatenate([old_column(of_events[freed], of_last), of_events[born[by_birth]]])

    end_tick = k + max(len(events.action), 1)
    old_end_events = np.concatenate([old_ends, np.full(int(unexplained.sum()), _ALIVE)])[before]
    end_events = np.concatenate([old_end_events, ends[by_birth]])
    escapes = end_events == _ALIVE
    unknown = np.full(len(freed), -1)
    return Buffers(
        sizes=column(events.size, last.size),
        starts=np.concatenate([np.arange(k), k + born[by_birth]]),
        ends=np.where(escapes, end_tick, np.where(escapes, 0, end_events) + k),
        escapes=escapes,
        addresses=column(events.address, last.address),
        streams=column(events.stream, last.stream),
        stacks=np.concatenate(
            [np.concatenate([unknown, last.stack[unexplained]])[before], events.stack[born[by_birth]]]
        ),
        pools=column(events.pool, last.pool),
        from_before=np.arange(k + len(born)) < k,
        num_before=k,
        oddities=Oddities(
            unseen_frees=int(unseen.sum()),
            extra_frees=extra,
            not_at_the_end=int((~np.isin(alive_addresses, last.address)).sum()) if has_last else 0,
            unknown_events=int((events.action == OTHER).sum()),
        ),
    )


# --- Segments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses [low, high) of one stream and pool."""

    low: int
    high: int
    stream: int
    pool: int


class _Spans:
    """Disjoint spans by address, each with the tick from which on it is there."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._spans: list[tuple[Span, int]] = []

    def add(self, span: Span, tick: int) -> None:
        """A span; what it overlaps is replaced."""
        self.remove(span.low, span.high)
        at = bisect_left(self._lows, span.low)
        self._lows.insert(at, span.low)
        self._spans.insert(at, (span, tick))

    def remove(self, low: int, high: int) -> list[tuple[Span, int]]:
        """The parts within [low, high), which are there no longer."""
        first = max(bisect_right(self._lows, low) - 1, 0)
        last = bisect_left(self._lows, high)
        cut: list[tuple[Span, int]] = []
        left: list[tuple[Span, int]] = []
        for span, tick in self._spans[first:last]:
            inside = (max(span.low, low), min(span.high, high))
            if inside[0] >= inside[1]:
                left.append((span, tick))
                continue
            if span.low < inside[0]:
                left.append((Span(span.low, inside[0], span.stream, span.pool), tick))
            cut.append((Span(*inside, span.stream, span.pool), tick))
            if inside[1] < span.high:
                left.append((Span(inside[1], span.high, span.stream, span.pool), tick))
        self._spans[first:last] = left
        self._lows[first:last] = [span.low for span, _ in left]
        return cut

    def all(self) -> list[tuple[Span, int]]:
        """All of them, by address."""
        return list(self._spans)


def segments_of(events: Events, last: list[Span], *, num_before: int) -> list[tuple[Span, int, int]]:
    """What was reserved, from which tick to which.

    What was there before the first event is found from the end backwards.

    Args:
        events: all of the device; the order counts.
        last: what is reserved at the end.
        num_before: tick of the first event.
    """
    places = np.flatnonzero((events.action >= SEGMENT_ALLOC) & (events.action <= SEGMENT_UNMAP)).tolist()
    end_tick = num_before + max(len(events.action), 1)
    columns = (events.action, events.address, events.size, events.stream, events.pool)
    steps = [tuple(int(column[place]) for column in columns) for place in places]

    backwards = _Spans()
    for span in last:
        backwards.add(span, 0)
    for action, address, size, stream, pool in reversed(steps):
        if action in (SEGMENT_ALLOC, SEGMENT_MAP):
            backwards.remove(address, address + size)
        else:
            backwards.add(Span(address, address + size, stream, pool), 0)

    spans = _Spans()
    for span, _ in backwards.all():
        spans.add(span, 0)
    found: list[tuple[Span, int, int]] = []
    for place, (action, address, size, stream, pool) in zip(places, steps, strict=True):
        tick = num_before + place
        if action in (SEGMENT_ALLOC, SEGMENT_MAP):
            spans.add(Span(address, address + size, stream, pool), tick)
        else:
            found += [(span, start, tick) for span, start in spans.remove(address, address + size) if start < tick]
    found += [(span, start, end_tick) for span, start in spans.all()]
    return found
