"""What a caching allocator had, what of it was used, and by whom: the account of one pool of one device."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memomalloc.data.columns import Int64Array
from memomalloc.data.origin import Origin
from memomalloc.data.snapshot import ALIGNMENT_BYTES, OutOfMemory, Snapshot, SnapshotMemory
from memomalloc.report.groups import UNKNOWN, origin_name
from memomalloc.report.live_bytes import LiveBytes
from memomalloc.report.snapshot_period import Period, period_of

ALIVE_BY = ("source", "module", "operator")
"""What tells apart who is alive."""
MAX_OOMS = 50
"""A program that goes on after one may have many."""
_SUMMED = ("allocated_bytes", "reserved_bytes", "fragmentation_bytes", "free_in_used_bytes", "free_segments_bytes")
FROM_BEFORE = "(allocated before the first event)"


@dataclass(frozen=True, slots=True)
class Alive:
    """Buffers of one source line, module or operator.

    Attributes:
        name: of what they have in common.
        num_buffers: how many.
        num_bytes: their sizes as requested, summed.
    """

    name: str
    num_buffers: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What there was at one tick; bytes.

    Attributes:
        tick: when.
        time_us: microseconds since 1970; None where that was not recorded.
        allocated_bytes: alive, as requested.
        reserved_bytes: what the allocator had taken from the device.
        fragmentation_bytes: reserved and not allocated; the sum of the next two.
        free_in_used_bytes: of it, between and behind tensors: in segments that cannot be given back.
        free_segments_bytes: of it, in segments in which nothing lived: kept for later.
    """

    tick: int
    time_us: int | None
    allocated_bytes: int
    reserved_bytes: int
    fragmentation_bytes: int
    free_in_used_bytes: int
    free_segments_bytes: int


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """What one stream keeps.

    Attributes:
        stream: its number; 0 is the default one.
        num_buffers: that were allocated on it.
        peak_allocated_bytes: the most alive at one tick.
        peak_reserved_bytes: the most reserved at one tick.
        end_allocated_bytes: alive at the end.
        end_reserved_bytes: reserved at the end.
    """

    stream: int
    num_buffers: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int


@dataclass(frozen=True, slots=True)
class OutOfMemoryAccount:
    """A request that could not be served.

    Attributes:
        requested_bytes: what was asked for.
        device_free_bytes: what the driver said was free.
        source: who asked.
        moment: what there was then, in all pools of the device.
    """

    requested_bytes: int
    device_free_bytes: int
    source: str
    moment: Moment


@dataclass(frozen=True, slots=True)
class Account:
    """The account of one memory.

    Attributes:
        memory: its id, as ``--memory`` takes it.
        name: for a person.
        num_buffers: that were seen.
        num_from_before: of these, there before the first event.
        from_before_bytes: their sizes, summed.
        num_lost: of those from before, recorded ones: their events were overwritten, so the beginning is lost.
        lower_bound_bytes: the most alive at one tick, rounded up to what the device can place: no plan is smaller.
        peak: the first tick at which the most bytes are alive.
        peak_reserved_bytes: the most that was reserved at one tick.
        end: the last tick.
        inactive_split_bytes: at the end, free blocks beside used ones in segments that cannot give back a part.
        num_inactive_split: how many blocks these are.
        rounding_bytes: at the end, what blocks have beyond the requests.
        awaiting_bytes: at the end, freed, but waiting for another stream.
        streams: what each keeps; the largest first.
        num_ooms: requests that could not be served.
        ooms: the first `MAX_OOMS` of them.
        alive_at_peak: by ``source``, ``module`` and ``operator``; the largest first.
        never_freed: allocated in the history and alive at the end, by source line; the largest first.
        period: the step that repeats, with its plan; None: none was found, or it was not looked for.
        oddities: what in the events does not go together, counted.
    """

    memory: str
    name: str
    num_buffers: int
    num_from_before: int
    from_before_bytes: int
    num_lost: int
    lower_bound_bytes: int
    peak: Moment
    peak_reserved_bytes: int
    end: Moment
    inactive_split_bytes: int
    num_inactive_split: int
    rounding_bytes: int
    awaiting_bytes: int
    streams: tuple[StreamAccount, ...]
    num_ooms: int
    ooms: tuple[OutOfMemoryAccount, ...]
    alive_at_peak: dict[str, tuple[Alive, ...]]
    never_freed: tuple[Alive, ...]
    period: Period | None
    oddities: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Ready for json."""
        return dataclasses.asdict(self)


def accounts_of(snapshot: Snapshot, memories: Sequence[SnapshotMemory], *, time_limit_s: float = 1.0) -> list[Account]:
    """Reckon up some memories of a snapshot.

    Args:
        snapshot: it tells what else was on a device that ran out of memory.
        memories: of it.
        time_limit_s: of the planner of each one's period.
    """
    return [
        account_of(
            memory,
            beside=[other for other in snapshot.memories if other.device == memory.device and other is not memory],
            time_limit_s=time_limit_s,
        )
        for memory in memories
    ]


def account_of(
    memory: SnapshotMemory,
    *,
    beside: Sequence[SnapshotMemory] = (),
    with_period: bool = True,
    time_limit_s: float = 1.0,
) -> Account:
    """Reckon up one memory.

    Args:
        memory: of a snapshot.
        beside: the other pools of its device; they count where a request could not be served.
        with_period: look for what repeats, and plan it.
        time_limit_s: of that planner.
    """
    live = LiveBytes.of(memory.sizes, memory.starts, memory.ends)
    segments, blocks = memory.segments, memory.blocks
    reserved = LiveBytes.of(segments.sizes, segments.starts, segments.ends)
    alive = np.flatnonzero((memory.starts <= live.peak_tick) & (live.peak_tick < memory.ends))
    never_freed = np.flatnonzero(memory.escapes & ~memory.from_before)
    split = _split_blocks(memory)
    rounded = LiveBytes.of(-(-memory.sizes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES, memory.starts, memory.ends)
    is_alive = blocks.allocated | blocks.awaiting
    return Account(
        memory=memory.id,
        name=memory.name,
        num_buffers=len(memory),
        num_from_before=int(memory.from_before.sum()),
        from_before_bytes=int(memory.sizes[memory.from_before].sum()),
        num_lost=memory.num_lost,
        lower_bound_bytes=rounded.peak_live_bytes,
        peak=_moment(memory, live.peak_tick),
        peak_reserved_bytes=reserved.peak_live_bytes,
        end=_moment(memory, memory.end_tick - 1),
        inactive_split_bytes=int(blocks.sizes[split].sum()),
        num_inactive_split=len(split),
        rounding_bytes=int((blocks.sizes - blocks.requested)[is_alive].sum()),
        awaiting_bytes=int(blocks.sizes[blocks.awaiting].sum()),
        streams=_streams(memory),
        num_ooms=len(memory.ooms),
        ooms=tuple(_out_of_memory(memory, beside, event) for event in memory.ooms[:MAX_OOMS]),
        alive_at_peak={by: _alive(memory, alive, by) for by in ALIVE_BY},
        never_freed=_alive(memory, never_freed, "source"),
        period=period_of(memory, time_limit_s=time_limit_s) if with_period else None,
        oddities={name: count for name, count in dataclasses.asdict(memory.oddities).items() if count},
    )


def snapshot_summary(snapshot: Snapshot, accounts: list[Account]) -> dict[str, Any]:
    """What ``memomalloc show --json`` prints of a snapshot, ready for json."""
    return {
        "num_events": snapshot.num_events,
        "num_annotations": len(snapshot.annotations),
        "settings": snapshot.settings,
        "unknown_keys": list(snapshot.unknown_keys),
        "memories": [account.as_json() for account in accounts],
    }


def _moment(memory: SnapshotMemory, tick: int) -> Moment:
    segments = memory.segments
    alive = np.flatnonzero((memory.starts <= tick) & (tick < memory.ends))
    there = np.flatnonzero((segments.starts <= tick) & (tick < segments.ends))
    allocated, reserved = int(memory.sizes[alive].sum()), int(segments.sizes[there].sum())
    # Bytes that live below an address; buffers that live together are disjoint.
    order = alive[np.argsort(memory.addresses[alive], kind="stable")]
    starts, sizes = memory.addresses[order], memory.sizes[order]
    sums = np.concatenate([[0], np.cumsum(sizes)])

    def below(addresses: Int64Array) -> Int64Array:
        count = np.searchsorted(starts, addresses)
        last = np.maximum(count - 1, 0)
        if not len(starts):
            return np.zeros_like(addresses)
        part = np.minimum(addresses - starts[last], sizes[last])
        return np.where(count > 0, sums[last] + part, 0)

    used = below(segments.addresses[there] + segments.sizes[there]) - below(segments.addresses[there])
    free_segments = int(segments.sizes[there][used == 0].sum())
    return Moment(
        tick=tick,
        time_us=memory.time_us_at(tick),
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        fragmentation_bytes=reserved - allocated,
        free_in_used_bytes=reserved - allocated - free_segments,
        free_segments_bytes=free_segments,
    )


def _split_blocks(memory: SnapshotMemory) -> Int64Array:
    """Free blocks of segments in which something lives, and which cannot give back a part."""
    blocks = memory.blocks
    used = np.unique(blocks.segments[blocks.allocated | blocks.awaiting])
    free = ~(blocks.allocated | blocks.awaiting)
    return np.flatnonzero(free & ~blocks.expandable & np.isin(blocks.segments, used))


def _streams(memory: SnapshotMemory) -> tuple[StreamAccount, ...]:
    segments, found = memory.segments, []
    buffers_of, segments_of = _places(memory.streams), _places(segments.streams)
    nothing = np.zeros(0, dtype=np.int64)
    for stream in sorted({*buffers_of, *segments_of}):
        mine, its = buffers_of.get(stream, nothing), segments_of.get(stream, nothing)
        live = LiveBytes.of(memory.sizes[mine], memory.starts[mine], memory.ends[mine])
        reserved = LiveBytes.of(segments.sizes[its], segments.starts[its], segments.ends[its])
        found.append(
            StreamAccount(
                stream=stream,
                num_buffers=len(mine),
                peak_allocated_bytes=live.peak_live_bytes,
                peak_reserved_bytes=reserved.peak_live_bytes,
                end_allocated_bytes=int(memory.sizes[mine][memory.escapes[mine]].sum()),
                end_reserved_bytes=int(segments.sizes[its][segments.ends[its] == memory.end_tick].sum()),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.peak_reserved_bytes, -one.peak_allocated_bytes, one.stream)))


def _places(column: Int64Array) -> dict[int, Int64Array]:
    """Where each value is."""
    order = np.argsort(column, kind="stable")
    values, firsts = np.unique(column[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, firsts[1:]), strict=True)) if len(values) else {}


def _out_of_memory(memory: SnapshotMemory, beside: Sequence[SnapshotMemory], event: OutOfMemory) -> OutOfMemoryAccount:
    asker = None if event.stack < 0 else Origin(*memory.call_stacks.asker(event.stack))
    moments = [_moment(one, event.tick) for one in (memory, *beside)]
    sums = [sum(getattr(moment, name) for moment in moments) for name in _SUMMED]
    moment = Moment(event.tick, moments[0].time_us, *sums)
    return OutOfMemoryAccount(event.requested_bytes, event.device_free_bytes, origin_name(asker, "source"), moment)


def _alive(memory: SnapshotMemory, indices: Int64Array, by: str) -> tuple[Alive, ...]:
    counts: defaultdict[str, int] = defaultdict(int)
    sums: defaultdict[str, int] = defaultdict(int)
    stacks = np.where(memory.from_before[indices] & (memory.stacks[indices] < 0), -2, memory.stacks[indices])
    unique, which = np.unique(stacks, return_inverse=True)
    num_of = np.bincount(which, minlength=len(unique)).tolist()
    bytes_of = np.zeros(len(unique), dtype=np.int64)
    np.add.at(bytes_of, which, memory.sizes[indices])
    for stack, count, num_bytes in zip(unique.tolist(), num_of, bytes_of.tolist(), strict=True):
        if stack < 0:
            name = FROM_BEFORE if stack == -2 else UNKNOWN
        else:
            name = origin_name(Origin(*memory.call_stacks.asker(stack)), by)
        counts[name] += count
        sums[name] += num_bytes
    return tuple(Alive(name, counts[name], sums[name]) for name in sorted(sums, key=lambda name: (-sums[name], name)))
