"""A caching allocator as torch's devices have one, in Python, which writes snapshots as torch does.

Made from what torch's own sources say of it (``c10/cuda/CUDACachingAllocator.h``, ``torch/cuda/memory.py``): requests
are rounded up to 512 bytes; small ones share segments of 2 MiB, large ones of 20 MiB, the largest get their own; blocks
are split, and merged again with free neighbours; each stream and pool keeps its own. It places nothing itself: the
files that it writes are what `memomalloc.read_snapshot` has to understand, and it also keeps the truth to compare with.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20
TORCH = "/opt/env/lib/python3.11/site-packages/torch"

Stack = Sequence[tuple[str, int, str]]


def stack(line: int, *, module: str = "model", function: str = "relu", with_cpp: bool = False) -> Stack:
    """Innermost first: an operator of torch, called by the ``forward`` of a module, called by a program."""
    cpp = (
        [("??", 0, f"at::_ops::{function}::call(at::Tensor const&)"), ("??", 0, "THPVariable_call")] if with_cpp else []
    )
    return (
        *cpp,
        (f"{TORCH}/nn/functional.py", 1500, function),
        (f"/home/me/{module}.py", line, "forward"),
        (f"{TORCH}/nn/modules/module.py", 1762, "_call_impl"),
        ("/home/me/train.py", 12, "<module>"),
    )


@dataclass(eq=False)
class Block:
    address: int
    size: int
    segment: Segment
    requested: int = 0
    state: str = "inactive"
    frames: list[dict[str, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Segment:
    address: int
    size: int
    stream: int
    pool: tuple[int, int]
    is_large: bool
    is_expandable: bool = False
    blocks: list[Block] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)


class OutOfMemoryError(Exception):
    pass


class CachingAllocator:
    """One device. Addresses are handed out as tokens, as pointers are."""

    def __init__(
        self,
        *,
        device: int = 0,
        capacity: int = 2**34,
        max_entries: int | None = None,
        expandable: bool = False,
        with_pools: bool = True,
        with_times: bool = True,
    ) -> None:
        self.device, self.capacity, self.max_entries = device, capacity, max_entries
        self.expandable, self.with_pools, self.with_times = expandable, with_pools, with_times
        self.pool, self.is_recording = (0, 0), True
        self.segments: list[Segment] = []
        self.entries: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.allocated = self.peak_allocated = 0
        self._blocks: dict[int, Block] = {}
        self._frames: dict[tuple[str, int, str], dict[str, Any]] = {}
        self._next_address = 0x7F00_0000_0000 + device * 2**40
        self._time_us = 1_700_000_000_000_000

    @property
    def reserved(self) -> int:
        return sum(segment.size for segment in self.segments)

    def alloc(self, size: int, *, stream: int = 0, frames: Stack = ()) -> int:
        rounded = -(-size // 512) * 512
        made = self._found(rounded, stream) or self._reserve(size, rounded, stream, frames)
        left = made.size - rounded
        if left >= 512 if not made.segment.is_large or made.segment.is_expandable else left > MIB:
            rest = Block(made.address + rounded, left, made.segment)
            made.segment.blocks.insert(made.segment.blocks.index(made) + 1, rest)
            made.size = rounded
        made.state, made.requested = "active_allocated", size
        made.frames = self._frame_dicts(frames) if self.is_recording else []
        self._blocks[made.address] = made
        self._record("alloc", made.address, size, stream, frames)
        self.allocated += size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return made.address

    def free(self, address: int, *, frames: Stack = (), completes: bool = True) -> None:
        block = self._blocks[address]
        self._record("free_requested", address, block.requested, block.segment.stream, frames)
        if completes:
            self.complete(address, frames=frames)
        else:
            block.state = "active_pending_free"

    def complete(self, address: int, *, frames: Stack = ()) -> None:
        block = self._blocks.pop(address)
        self._record("free_completed", address, block.requested, block.segment.stream, frames)
        self.allocated -= block.requested
        block.state, block.frames = "inactive", []
        blocks = block.segment.blocks
        at = blocks.index(block)
        for other in (blocks[at + 1 : at + 2], blocks[at - 1 : at] if at else []):
            for neighbour in other:
                if neighbour.state == "inactive":
                    block.address, block.size = min(block.address, neighbour.address), block.size + neighbour.size
                    blocks.remove(neighbour)

    def empty_cache(self) -> None:
        for segment in [segment for segment in self.segments if len(segment.blocks) == 1]:
            if segment.blocks[0].state == "inactive":
                self.segments.remove(segment)
                action = "segment_unmap" if segment.is_expandable else "segment_free"
                self._record(action, segment.address, segment.size, segment.stream, ())

    @contextmanager
    def private_pool(self, pool: tuple[int, int]) -> Iterator[None]:
        self.pool, before = pool, self.pool
        try:
            yield
        finally:
            self.pool = before

    def annotate(self, name: str, stage: str) -> None:
        self._time_us += 3
        self.annotations.append({"device": self.device, "time_us": self._time_us, "name": name, "stage": stage})

    def _found(self, rounded: int, stream: int) -> Block | None:
        is_large = rounded > MIB
        free = [
            block
            for segment in self.segments
            if (segment.stream, segment.pool, segment.is_large) == (stream, self.pool, is_large)
            for block in segment.blocks
            if block.state == "inactive" and block.size >= rounded
        ]
        return min(free, key=lambda block: (block.size, block.address), default=None)

    def _reserve(self, size: int, rounded: int, stream: int, frames: Stack) -> Block:
        total = 2 * MIB if rounded <= MIB else 20 * MIB if rounded < 10 * MIB else -(-rounded // (2 * MIB)) * 2 * MIB
        if self.reserved + total > self.capacity:
            self.empty_cache()
        if self.reserved + total > self.capacity:
            self._record("oom", self.capacity - self.reserved, size, stream, frames)
            raise OutOfMemoryError
        if self.expandable:
            return self._expand(total, stream, rounded > MIB, frames)
        segment = Segment(self._next_address, total, stream, self.pool, rounded > MIB)
        segment.frames = self._frame_dicts(frames)
        self._next_address += total + 16 * MIB
        segment.blocks.append(Block(segment.address, total, segment))
        self.segments.append(segment)
        self._record("segment_alloc", segment.address, total, stream, frames)
        return segment.blocks[0]

    def _expand(self, total: int, stream: int, is_large: bool, frames: Stack) -> Block:
        key = (stream, self.pool, is_large)
        mine = [other for other in self.segments if (other.stream, other.pool, other.is_large) == key]
        if not mine:
            segment = Segment(self._next_address, 0, *key, is_expandable=True)
            self._next_address += 2**36
            self.segments.append(segment)
        else:
            segment = mine[0]
        self._record("segment_map", segment.address + segment.size, total, stream, frames)
        made = Block(segment.address + segment.size, total, segment)
        segment.size += total
        last = segment.blocks[-1] if segment.blocks else None
        if last is not None and last.state == "inactive":
            last.size += total
            return last
        segment.blocks.append(made)
        return made

    def _frame_dicts(self, frames: Stack) -> list[dict[str, Any]]:
        # Frames are shared, lists of them are not: as torch makes them.
        return [
            self._frames.setdefault(frame, {"filename": frame[0], "line": frame[1], "name": frame[2]})
            for frame in frames
        ]

    def _record(self, action: str, address: int, size: int, stream: int, frames: Stack) -> None:
        self._time_us += 7
        if not self.is_recording:
            return
        entry: dict[str, Any] = {"action": action, "device_free" if action == "oom" else "addr": address}
        entry |= {"size": size, "stream": stream}
        if self.with_times:
            entry["time_us"] = self._time_us
        if self.with_pools:
            entry |= {
                "segment_pool_id": self.pool if address not in self._blocks else self._blocks[address].segment.pool
            }
            entry["compile_context"] = "N/A"
        entry["frames"] = self._frame_dicts(frames)
        self.entries.append(entry)
        if self.max_entries is not None and len(self.entries) > self.max_entries:
            del self.entries[0]


def snapshot(*allocators: CachingAllocator) -> dict[str, Any]:
    """What ``_snapshot()`` gives of some devices."""
    return {
        "segments": [
            {
                "device": allocator.device,
                "address": segment.address,
                "total_size": segment.size,
                "allocated_size": sum(block.size for block in segment.blocks if block.state == "active_allocated"),
                "active_size": sum(block.size for block in segment.blocks if block.state != "inactive"),
                "requested_size": sum(block.requested for block in segment.blocks if block.state != "inactive"),
                "stream": segment.stream,
                "segment_type": "large" if segment.is_large else "small",
                "segment_pool_id": segment.pool,
                "is_expandable": segment.is_expandable,
                "frames": segment.frames,
                "blocks": [
                    {
                        "address": block.address,
                        "size": block.size,
                        "requested_size": block.requested,
                        "state": block.state,
                        "frames": block.frames,
                    }
                    for block in segment.blocks
                ],
            }
            for allocator in allocators
            for segment in sorted(allocator.segments, key=lambda segment: segment.address)
        ],
        "device_traces": [allocator.entries for allocator in allocators],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "expandable_segments": False,
                               "roundup_power2_divisions": {"1": 0}, "garbage_collection_threshold": 0.0},
        "external_annotations": [note for allocator in allocators for note in allocator.annotations],
    }  # fmt: skip


def write(path: Path, *allocators: CachingAllocator, protocol: int = 4) -> Path:
    """The file that ``_dump_snapshot`` writes."""
    path.write_bytes(pickle.dumps(snapshot(*allocators), protocol=protocol))
    return path


def train(allocator: CachingAllocator, *, num_steps: int = 6, num_layers: int = 4, unit: int = MIB) -> None:
    """Weights, then steps: activations kept for the backward pass, gradients, an optimizer state made in the first."""
    weights = [allocator.alloc(unit // 2 + 100 * i, frames=stack(3, function="empty")) for i in range(num_layers)]
    states: list[int] = []
    for step in range(num_steps):
        allocator.annotate("step", "START")
        activations = []
        for i in range(num_layers):
            scratch = allocator.alloc(unit // 4, frames=stack(20 + i, module=f"layer{i}", function="conv2d"))
            activations.append(allocator.alloc(unit + 4096 * i, frames=stack(30 + i, module=f"layer{i}")))
            allocator.free(scratch)
        gradients = []
        for i in reversed(range(num_layers)):
            gradients.append(
                allocator.alloc(unit // 2 + 100 * i, frames=stack(40 + i, module="train", function="grad"))
            )
            allocator.free(activations.pop())
        if step == 0:
            states = [
                allocator.alloc(unit // 2 + 100 * i, frames=stack(50, function="zeros_like")) for i in range(num_layers)
            ]
        for gradient in gradients:
            allocator.free(gradient)
        allocator.annotate("step", "END")
    assert weights
    assert states
