"""Snapshot files of caching allocators: the pickles that ``torch.cuda.memory._dump_snapshot`` writes.

A pickle is a program that builds what it likes when it is loaded. These are read by `memomalloc._snapshot`, which
knows the instructions that make numbers, texts, lists, tuples and dicts, refuses every other, and keeps rows of numbers
instead of objects. Protocols 0 to 5 are read, of Python's pickler and of torch's own in C++; also the list of segments
that ``memory_snapshot()`` gives, the files of other devices, which have the same keys, and what older versions of torch
wrote: blocks with a ``history``, events without times or pools.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from memomalloc._snapshot import PickleReader, RefusedError
from memomalloc.data.call_stacks import CallStacks, Frame
from memomalloc.data.columns import Int64Array, exact_sum, read_only
from memomalloc.data.input_file import MAX_FILE_BYTES, limit_pipe, limit_unpacked, open_input
from memomalloc.data.snapshot import Annotation, Blocks, OutOfMemory, SegmentSpans, Snapshot, SnapshotMemory
from memomalloc.data.snapshot_history import (
    ALLOC,
    ANNOTATE,
    OUT_OF_MEMORY,
    SEGMENT_ALLOC,
    SEGMENT_UNMAP,
    Buffers,
    Events,
    LastBuffers,
    Span,
    buffers_of,
    segments_of,
)
from memomalloc.errors import FileFormatError

MAX_MEMORY_BYTES = 3 * 2**30
"""What the rows of a file may take while it is read."""
MAX_ADDRESS = 2**62
MAX_SIZE_BYTES = 2**50
"""Of a block, a segment, a request."""
MAX_TOTAL_BYTES = 2**61
MAX_NAME = 2048
"""Characters of the name of a file or function; what is more is left out."""
MAX_DEVICES = 256
MAX_POOLS = 1024
"""Of one device."""
MAX_SEGMENT_EVENTS = 2**18
"""More than any history has; each takes a step in Python."""
MAX_UNPACKED_RATIO = 200
"""Snapshots repeat themselves; compressed ones unpack to 20 to 100 times their size."""
SQLITE = b"SQLite format 3\0"

_PIECE_BYTES = 2**22
_ABSENT = np.iinfo(np.int64).min
_ALIVE_STATES = {b"active_allocated", b"active_pending_free", b"active_awaiting_free"}
_COMMON_POOL = (0, 0)

Progress = Callable[[int], None]
"""Is told how many bytes were read."""


def is_pickle(beginning: bytes) -> bool:
    """Whether a file that begins so is a pickle of a dict or a list."""
    return (beginning[:1] == b"\x80" and beginning[1:2] <= b"\x10") or beginning[:2] in (
        b"(d", b"(l", b"}q", b"]q", b"}(", b"](", b"}.", b"].",
    )  # fmt: skip


def read_snapshot(path: str | Path, *, progress: Progress | None = None) -> Snapshot:
    """Read a snapshot of a GPU's memory. No GPU is needed, nor torch, and nothing in the file is run.

    Args:
        path: a file of ``torch.cuda.memory._dump_snapshot``, or one like it; compressed ones are unpacked.
        progress: is told how many bytes were read, some times a second.

    Returns:
        One `SnapshotMemory` for each device and pool.

    Raises:
        FileFormatError: it is no whole, plain snapshot; the message says what is wrong with it.
    """
    with open_input(path, what="memory snapshot", max_pipe_bytes=MAX_FILE_BYTES) as file:
        return load_snapshot(file, path, progress=progress)


def load_snapshot(file: IO[bytes], path: str | Path, *, progress: Progress | None = None) -> Snapshot:
    """Read a snapshot from an open file; see `read_snapshot`."""
    if hasattr(file, "raw"):
        limit_pipe(file, MAX_FILE_BYTES)  # type: ignore[arg-type]
        limit_unpacked(file, 2**26, MAX_UNPACKED_RATIO)  # type: ignore[arg-type]
    reader = PickleReader(MAX_MEMORY_BYTES)
    num_bytes = 0
    try:
        while piece := file.read(_PIECE_BYTES):
            if not num_bytes and piece.startswith(SQLITE):
                raise FileFormatError(path, "this is an SQLite database: write the snapshot with _dump_snapshot()")
            reader.feed(piece)
            num_bytes += len(piece)
            if progress is not None:
                progress(num_bytes)
        columns = reader.take()
    except RefusedError as error:
        raise FileFormatError(path, f"no memory snapshot that can be read: {error}") from None
    return _Maker(columns, path).snapshot()


class _Maker:
    """A snapshot of the columns that were read."""

    def __init__(self, columns: dict[str, Any], path: str | Path) -> None:
        self._columns = columns
        self._path = Path(path)
        self._texts = [_text(text) for text in columns["texts"]]
        self._states = columns["texts"]
        self._pools: list[tuple[int, int]] = list(columns["pools"])
        if _COMMON_POOL not in self._pools:
            self._pools.append(_COMMON_POOL)
        self._common = self._pools.index(_COMMON_POOL)

    def snapshot(self) -> Snapshot:
        columns = self._columns
        stacks = CallStacks(
            frames=tuple(
                Frame(
                    self._texts[file][:MAX_NAME],
                    max(line, 0),
                    self._texts[function][:MAX_NAME],
                    self._texts[node][:MAX_NAME] if node >= 0 else "",
                )
                for file, line, function, node in zip(
                    *(columns[f"frame_{name}"].tolist() for name in ("file", "line", "function", "node")), strict=True
                )
            ),
            stack_ends=columns["stack_ends"],
            stack_frames=columns["stack_frames"],
        )
        num_devices, num_host = columns["num_device_traces"], columns["num_host_traces"]
        devices = columns["segment_device"][columns["segment_list"] == 0]
        if len(devices) and not 0 <= devices.min() <= devices.max() < MAX_DEVICES:
            self._fail(f"a segment is on device {devices.min() if devices.min() < 0 else devices.max()}")
        if num_devices > MAX_DEVICES or num_host > MAX_DEVICES:
            self._fail(f"traces of {max(num_devices, num_host)} devices; at most {MAX_DEVICES} are read")
        memories: list[SnapshotMemory] = []
        for device in range(max(num_devices, int(devices.max(initial=-1)) + 1)):
            of_device = (columns["segment_list"] == 0) & (columns["segment_device"] == device)
            traces = [device] if device < num_devices else []
            memories += self._memories(device, traces, of_device, stacks)
        of_host = columns["segment_list"] == 1
        if of_host.any() or num_host:
            memories += self._memories(-1, list(range(num_devices, num_devices + num_host)), of_host, stacks)
        if not memories:
            self._fail("it has no block and no event: record first, with _record_memory_history()")
        return Snapshot(
            path=self._path,
            memories=tuple(memories),
            annotations=tuple(self._annotations()),
            settings={_text(name): _text(value) for name, value in columns["settings"]},
            num_events=int((columns["event_trace"] >= 0).sum()),
            call_stacks=stacks,
            unknown_keys=tuple(_text(key) for key in columns["unknown_keys"]),
        )

    def _memories(
        self, device: int, traces: list[int], of_device: np.ndarray[Any, Any], stacks: CallStacks
    ) -> list[SnapshotMemory]:
        events, times = self._events(traces)
        segments = {
            name: self._columns[f"segment_{name}"][of_device]
            for name in ("address", "size", "stream", "pool", "is_expandable")
        }
        segments["pool"] = np.where(segments["pool"] < 0, self._common, segments["pool"]).astype(np.int64)
        self._check(segments["address"], segments["size"], "a segment")
        if not len(events.action) and not len(segments["size"]):
            return []
        blocks, block_stacks, block_pools = self._blocks(np.flatnonzero(of_device), segments)
        events = self._with_pools(events, segments)
        alive = np.flatnonzero(blocks.allocated | blocks.awaiting)
        alive = alive[np.argsort(blocks.addresses[alive], kind="stable")]
        last = LastBuffers(
            blocks.addresses[alive],
            blocks.requested[alive],
            blocks.streams[alive],
            block_stacks[alive],
            block_pools[alive],
        )
        if len(last.address) and (np.diff(last.address) == 0).any():
            self._fail("two blocks have the same address")
        buffers = buffers_of(events, last, has_last=len(segments["size"]) > 0)
        last_spans = [
            Span(address, address + size, stream, pool)
            for address, size, stream, pool in zip(
                *(segments[name].tolist() for name in ("address", "size", "stream", "pool")), strict=True
            )
        ]
        spans = segments_of(events, last_spans, num_before=buffers.num_before)
        sums = (exact_sum(buffers.sizes), exact_sum(blocks.sizes), sum(span.high - span.low for span, _, _ in spans))
        if max(sums) > MAX_TOTAL_BYTES:
            self._fail(f"its sizes add up to more than {MAX_TOTAL_BYTES} bytes")
        failed = events.pool[events.action == OUT_OF_MEMORY]
        spans_of: dict[int, list[tuple[Span, int, int]]] = {
            pool: [] for pool in np.unique(np.concatenate([buffers.pools, failed])).tolist()
        }
        for row in spans:
            spans_of.setdefault(row[0].pool, []).append(row)
        if len(spans_of) > MAX_POOLS:
            self._fail(f"{len(spans_of)} pools on a device; at most {MAX_POOLS} are read")
        return [
            self._memory(device, pool, events, times, buffers, spans_of[pool], blocks, block_pools, stacks)
            for pool in sorted(spans_of, key=self._pools.__getitem__)
        ]

    def _memory(
        self,
        device: int,
        pool: int,
        events: Events,
        times: Int64Array,
        buffers: Buffers,
        spans: list[tuple[Span, int, int]],
        blocks: Blocks,
        block_pools: Int64Array,
        stacks: CallStacks,
    ) -> SnapshotMemory:
        mine = np.flatnonzero(buffers.pools == pool)
        stack_of = buffers.stacks[mine]
        from_before = buffers.from_before[mine]
        rows = np.array(
            [(span.low, span.high - span.low, start, end, span.stream) for span, start, end in spans], np.int64
        )
        addresses, sizes, starts, ends, streams = (read_only(column.copy()) for column in rows.reshape(-1, 5).T)
        of_pool = block_pools == pool
        failed = np.flatnonzero((events.action == OUT_OF_MEMORY) & (events.pool == pool)).tolist()
        return SnapshotMemory(
            device=device,
            pool=self._pools[pool],
            sizes=read_only(buffers.sizes[mine]),
            starts=read_only(buffers.starts[mine]),
            ends=read_only(buffers.ends[mine]),
            escapes=read_only(buffers.escapes[mine]),
            addresses=read_only(buffers.addresses[mine]),
            streams=read_only(buffers.streams[mine]),
            stacks=read_only(stack_of),
            from_before=read_only(from_before),
            end_tick=buffers.num_before + max(len(events.action), 1),
            first_event_tick=buffers.num_before,
            event_times_us=times,
            segments=SegmentSpans(addresses, sizes, starts, ends, streams),
            blocks=Blocks(**{name: read_only(getattr(blocks, name)[of_pool]) for name in Blocks.__dataclass_fields__}),
            ooms=tuple(
                OutOfMemory(
                    tick=buffers.num_before + place,
                    time_us=int(times[place]) if len(times) else None,
                    requested_bytes=int(events.size[place]),
                    device_free_bytes=int(events.address[place]),
                    stack=int(events.stack[place]),
                )
                for place in failed
            ),
            num_lost=int((from_before & (stack_of >= 0)).sum()) if len(events.action) else 0,
            call_stacks=stacks,
            oddities=buffers.oddities,
        )

    def _events(self, traces: list[int]) -> tuple[Events, Int64Array]:
        """The events of some traces, in order; and their times, if all have one."""
        trace = self._columns["event_trace"]
        # Of a device there is one, or none.
        mine = trace == traces[0] if len(traces) == 1 else np.isin(trace, traces)

        def column(name: str) -> Int64Array:
            found: Int64Array = self._columns[f"event_{name}"][mine].astype(np.int64, copy=False)
            return found

        action, address, size, times = column("action"), column("address"), column("size"), column("time")
        moves = (action >= ALLOC) & (action <= SEGMENT_UNMAP)
        self._check(address[moves], size[moves], "an event")
        num_segment_events = int(((action >= SEGMENT_ALLOC) & (action <= SEGMENT_UNMAP)).sum())
        if num_segment_events > MAX_SEGMENT_EVENTS:
            self._fail(f"{num_segment_events} events of segments; at most {MAX_SEGMENT_EVENTS} are read")
        rest = ~moves
        address[rest], size[rest] = np.maximum(address[rest], 0), np.maximum(size[rest], 0)
        has_times = len(times) > 0 and times.min() != _ABSENT
        # An empty stack says as little as none.
        stack = self._real_stacks(column("stack"))
        return Events(action, address, size, column("stream"), stack, column("pool")), times if has_times else times[:0]

    def _real_stacks(self, stacks: Int64Array) -> Int64Array:
        ends = self._columns["stack_ends"]
        if not len(ends):
            return stacks
        is_empty = np.append(np.diff(ends, prepend=0) == 0, True)
        real: Int64Array = np.where(is_empty[stacks], np.int64(-1), stacks)
        return real

    def _with_pools(self, events: Events, segments: dict[str, Int64Array]) -> Events:
        """Events of before torch said which pool each is in: that of the segment around it."""
        unknown = events.pool < 0
        if not unknown.any():
            return events
        pool = events.pool.copy()
        pool[unknown] = self._common
        order = np.argsort(segments["address"], kind="stable")
        if len(order):
            address = events.address[unknown]
            nearest = order[np.maximum(np.searchsorted(segments["address"][order], address, side="right") - 1, 0)]
            inside = (address >= segments["address"][nearest]) & (
                address < segments["address"][nearest] + segments["size"][nearest]
            )
            inside &= events.action[unknown] != OUT_OF_MEMORY
            pool[unknown] = np.where(inside, segments["pool"][nearest], self._common)
        return Events(events.action, events.address, events.size, events.stream, events.stack, pool)

    def _blocks(
        self, segment_rows: Int64Array, segments: dict[str, Int64Array]
    ) -> tuple[Blocks, Int64Array, Int64Array]:
        """The blocks of some segments; also the call stack and the pool of each."""
        columns = self._columns
        owner = columns["block_segment"]
        rows = np.flatnonzero(np.isin(owner, segment_rows))
        # The rows of a segment lie in the order of its blocks.
        rows = rows[np.argsort(owner[rows], kind="stable")]
        place = np.searchsorted(segment_rows, owner[rows])
        sizes, addresses = columns["block_size"][rows], columns["block_address"][rows]
        if len(sizes) and (sizes.min() < 0 or sizes.max() > MAX_SIZE_BYTES):
            self._fail(f"a block has a size that none has, {sizes.min() if sizes.min() < 0 else sizes.max()}")
        # Blocks have no address of their own in older files: they fill their segment.
        first = np.flatnonzero(np.diff(place, prepend=-1) != 0)
        before = np.cumsum(sizes) - sizes
        inside = before - np.repeat(before[first], np.diff(np.append(first, len(rows))))
        addresses = np.where(addresses == _ABSENT, segments["address"][place] + inside, addresses)
        self._check(addresses, sizes, "a block")
        requested = np.clip(columns["block_requested"][rows], 0, sizes)
        states = [self._states[state] for state in range(len(self._states))]
        is_alive = np.array([state in _ALIVE_STATES for state in states])
        is_allocated = np.array([state == b"active_allocated" for state in states])
        state = columns["block_state"][rows]
        made = Blocks(
            addresses=addresses,
            sizes=sizes,
            requested=requested,
            allocated=is_allocated[state],
            awaiting=is_alive[state] & ~is_allocated[state],
            segments=segments["address"][place],
            expandable=segments["is_expandable"][place] != 0,
            streams=segments["stream"][place],
        )
        return made, self._real_stacks(columns["block_stack"][rows].astype(np.int64)), segments["pool"][place]

    def _annotations(self) -> list[Annotation]:
        columns = (self._columns[f"annotation_{name}"].tolist() for name in ("device", "time", "name", "stage"))
        found = [
            Annotation(device, time, self._texts[name], self._texts[stage] if stage >= 0 else "")
            for device, time, name, stage in zip(*columns, strict=True)
        ]
        # What the program said of an allocation is an event of its own.
        trace, said = self._columns["event_trace"], self._columns["event_metadata"]
        of_device = (trace >= 0) & (trace < self._columns["num_device_traces"])
        places = np.flatnonzero(of_device & (self._columns["event_action"] == ANNOTATE) & (said >= 0))
        rows = (column[places].tolist() for column in (trace, self._columns["event_time"], said))
        found += [
            Annotation(device, max(time, 0), self._texts[name], "") for device, time, name in zip(*rows, strict=True)
        ]
        return found

    def _check(self, addresses: Int64Array, sizes: Int64Array, what: str) -> None:
        for column, name, highest in ((addresses, "address", MAX_ADDRESS), (sizes, "size", MAX_SIZE_BYTES)):
            if len(column) and not 0 <= column.min() <= column.max() <= highest:
                wrong = column.min() if column.min() < 0 else column.max()
                self._fail(
                    f"{what} has no {name}" if wrong == _ABSENT else f"{what} has a {name} that none has, {wrong}"
                )

    def _fail(self, message: str) -> NoReturn:
        raise FileFormatError(self._path, f"no memory snapshot that can be read: {message}")


def _text(text: bytes) -> str:
    try:
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace")
