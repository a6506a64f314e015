"""What a caching allocator of a GPU told of itself: blocks, segments and events, offline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from memomalloc.data.call_stacks import CallStacks
from memomalloc.data.columns import BoolArray, Int64Array, read_only
from memomalloc.data.origin import Origin
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace

ALIGNMENT_BYTES = 512
"""What torch's allocators of devices round every request up to."""


@dataclass(frozen=True, eq=False)
class SegmentSpans:
    """What the allocator had reserved, and when: n spans of addresses over half-open ticks.

    Attributes:
        addresses: the first of each.
        sizes: bytes.
        starts: tick of each; 0 where it was there before the first event.
        ends: tick at which it was given back, or the end.
        streams: whose blocks it holds.
    """

    addresses: Int64Array
    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    streams: Int64Array


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of all segments when the snapshot was taken.

    Attributes:
        addresses: the first of each.
        sizes: bytes, rounded up.
        requested: bytes as requested; of a free block what was requested last.
        allocated: a tensor lives there.
        awaiting: it was freed, and waits for another stream.
        segments: the address of each one's segment.
        expandable: its segment can give back parts of itself.
        streams: of its segment.
    """

    addresses: Int64Array
    sizes: Int64Array
    requested: Int64Array
    allocated: BoolArray
    awaiting: BoolArray
    segments: Int64Array
    expandable: BoolArray
    streams: Int64Array


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A request that the allocator could not serve.

    Attributes:
        tick: when.
        time_us: microseconds since 1970; None where that was not recorded.
        requested_bytes: what was asked for.
        device_free_bytes: what the driver said was free.
        stack: index of the call stack; -1: not recorded.
    """

    tick: int
    time_us: int | None
    requested_bytes: int
    device_free_bytes: int
    stack: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """A mark that the program made in time.

    Attributes:
        device: its index.
        time_us: microseconds since 1970.
        name: of what began or ended; or what was said of an allocation.
        stage: ``START``, ``END``, or empty.
    """

    device: int
    time_us: int
    name: str
    stage: str


@dataclass(frozen=True, slots=True)
class Oddities:
    """What in the events does not go together, counted.

    Attributes:
        unseen_frees: an address was allocated again without a free before: those events are not in the file.
        extra_frees: frees of what was not allocated.
        not_at_the_end: alive by the events, but no block of the last state.
        unknown_events: actions that this memomalloc does not know.
    """

    unseen_frees: int = 0
    extra_frees: int = 0
    not_at_the_end: int = 0
    unknown_events: int = 0


@dataclass(frozen=True, eq=False)
class SnapshotMemory:
    """What one pool of one device went through: n buffers in order of allocation, and the segments around them.

    Ticks count the events of the device. Buffers that were there before the first event come first, at ticks of
    their own in order of address; the first event is at `first_event_tick`.

    Attributes:
        device: its index, or -1 for pinned memory of the host.
        pool: its id; ``(0, 0)`` is the common one, others belong to graphs or to the program.
        sizes: bytes as requested.
        starts: tick of each allocation, strictly increasing.
        ends: tick at which the bytes could be used again; ``end_tick`` for what was alive when the snapshot was taken.
        escapes: was alive when the snapshot was taken.
        addresses: of each buffer.
        streams: on which each was allocated.
        stacks: index of each one's call stack; -1: not recorded.
        from_before: was there before the first event.
        end_tick: the tick of the end; no event is at or after it.
        first_event_tick: the tick of the first event.
        event_times_us: of all events of the device, microseconds since 1970; empty where that was not recorded.
        segments: what was reserved when.
        blocks: the last state.
        ooms: requests that could not be served.
        num_lost: of those from before, how many were recorded, so that their events were overwritten: the beginning
            of the history is lost.
        call_stacks: of the whole snapshot.
        oddities: what does not go together; of the whole device.
    """

    device: int
    pool: tuple[int, int]
    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    escapes: BoolArray
    addresses: Int64Array
    streams: Int64Array
    stacks: Int64Array
    from_before: BoolArray
    end_tick: int
    first_event_tick: int
    event_times_us: Int64Array
    segments: SegmentSpans
    blocks: Blocks
    ooms: tuple[OutOfMemory, ...]
    num_lost: int
    call_stacks: CallStacks
    oddities: Oddities

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def id(self) -> str:
        """What ``--memory`` takes: ``0`` for the common pool of device 0, ``0:1.0`` for its pool (1, 0), ``host``."""
        device = "host" if self.device < 0 else str(self.device)
        return device if self.pool == (0, 0) else f"{device}:{self.pool[0]}.{self.pool[1]}"

    @property
    def name(self) -> str:
        """For a person."""
        device = "host (pinned)" if self.device < 0 else f"device {self.device}"
        return device if self.pool == (0, 0) else f"{device}, pool ({self.pool[0]}, {self.pool[1]})"

    @cached_property
    def trace(self) -> Trace:
        """The buffers as a trace; what was alive at the end are escapes."""
        return self.trace_of(np.arange(len(self)))

    def trace_of(self, indices: Int64Array) -> Trace:
        """Some of the buffers as a trace.

        Args:
            indices: increasing.
        """
        return Trace.from_arrays(
            self.sizes[indices],
            self.starts[indices],
            self.ends[indices],
            self.escapes[indices],
            end_tick=self.end_tick,
            origins=self.origins_of(indices),
        )

    def origins_of(self, indices: Int64Array) -> tuple[Origin | None, ...]:
        """Who asked for some of the buffers; None where that was not recorded."""
        occurrences: dict[tuple[object, ...], int] = {}
        origins: list[Origin | None] = []
        for stack, escape in zip(self.stacks[indices].tolist(), self.escapes[indices].tolist(), strict=True):
            if stack < 0:
                origins.append(None)
                continue
            asker = self.call_stacks.asker(stack)
            role = "escape" if escape else "output"
            occurrence = occurrences.get((asker, role), 0)
            occurrences[asker, role] = occurrence + 1
            operators, module_path, source = asker
            origins.append(Origin(operators, module_path, source, role, occurrence))
        return tuple(origins)

    def between(self, start_tick: int, end_tick: int) -> SnapshotMemory:
        """A part of the history: what was alive and reserved in the ticks [start_tick, end_tick), cut off at both.

        What was alive before counts as from before, and what is alive after it as alive at the end. The ticks stay.
        """
        mine = np.flatnonzero((self.starts < end_tick) & (self.ends > start_tick))
        before = self.starts[mine] < start_tick
        # Those from before have ticks of their own, each another one.
        first_tick = start_tick - int(before.sum())
        starts = np.where(before, first_tick + np.cumsum(before) - 1, self.starts[mine])
        columns = {name: read_only(getattr(self, name)[mine]) for name in ("sizes", "addresses", "streams", "stacks")}
        spans = self.segments
        there = np.flatnonzero((spans.starts < end_tick) & (spans.ends > start_tick))
        segments = SegmentSpans(
            spans.addresses[there],
            spans.sizes[there],
            np.where(spans.starts[there] < start_tick, first_tick, spans.starts[there]),
            np.minimum(spans.ends[there], end_tick),
            spans.streams[there],
        )
        return dataclasses.replace(
            self,
            **columns,
            starts=read_only(starts),
            ends=read_only(np.minimum(self.ends[mine], end_tick)),
            escapes=read_only(self.escapes[mine] | (self.ends[mine] > end_tick)),
            from_before=read_only(self.from_before[mine] | before),
            end_tick=end_tick,
            segments=segments,
            ooms=tuple(event for event in self.ooms if start_tick <= event.tick < end_tick),
        )

    def problem(self, alignment_bytes: int = ALIGNMENT_BYTES) -> Problem:
        """What a static plan of the whole history would have to place.

        A buffer that is never freed lives to the end; from its allocation on, and not before as an output of a call
        does: the history happens once.

        Args:
            alignment_bytes: sizes are rounded up to it.
        """
        return Problem.from_arrays(self.sizes, self.starts, self.ends, alignment_bytes=alignment_bytes)

    def time_us_at(self, tick: int) -> int | None:
        """When the event of a tick was; None where that is not known."""
        index = tick - self.first_event_tick
        return int(self.event_times_us[index]) if 0 <= index < len(self.event_times_us) else None

    def __repr__(self) -> str:
        return f"SnapshotMemory({self.name}: {len(self)} buffers, {len(self.segments.sizes)} segments)"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A file of ``torch.cuda.memory._dump_snapshot``, or of another device's like it.

    Attributes:
        path: the file.
        memories: one for each device and pool, by device, then by pool.
        annotations: marks in time.
        settings: of the allocator, as text.
        num_events: of all devices.
        call_stacks: of all buffers.
        unknown_keys: parts of the file that were not read.
    """

    path: Path
    memories: tuple[SnapshotMemory, ...]
    annotations: tuple[Annotation, ...]
    settings: dict[str, str]
    num_events: int
    call_stacks: CallStacks
    unknown_keys: tuple[str, ...]

    @property
    def largest(self) -> SnapshotMemory:
        """The memory with the most bytes, reserved or alive."""
        return max(self.memories, key=lambda memory: (int(memory.segments.sizes.sum()), int(memory.sizes.sum())))

    def __repr__(self) -> str:
        names = ", ".join(memory.name for memory in self.memories)
        return f"Snapshot({self.path.name}: {self.num_events} events, {names})"
