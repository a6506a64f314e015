"""Snapshots that a GPU's process wrote: what is read is what torch's own counters said."""

from __future__ import annotations

from pathlib import Path

import pytest

from memomalloc import Snapshot, SnapshotMemory, read_snapshot
from memomalloc.data.snapshot import Oddities

FOLDER = Path(__file__).parents[1] / "gpu_snapshots"
#: ``torch.cuda.memory_reserved()`` and ``memory_allocated()`` at the end, ``max_memory_allocated()``.
COUNTERS = {
    "expandable_segments": (285_212_672, 112_235_008, 241_993_216),
    "graph": (100_663_296, 81_747_968, 90_136_576),
    "out_of_memory": (830_472_192, 830_472_192, 1_637_875_712),
    "overwritten": (81_788_928, 73_385_984, 79_660_032),
}


def read(name: str) -> Snapshot:
    return read_snapshot(FOLDER / f"{name}.pickle.gz")


def reserved_at_the_end(memory: SnapshotMemory) -> int:
    return int(memory.segments.sizes[memory.segments.ends >= memory.end_tick].sum())


@pytest.mark.parametrize("name", COUNTERS)
def test_what_is_read_is_what_torch_counted(name: str) -> None:
    found = read(name)
    reserved, allocated, peak_allocated = COUNTERS[name]
    assert sum(map(reserved_at_the_end, found.memories)) == reserved
    # torch counts whole blocks: the smallest multiple of 512 bytes, and up to a megabyte more of a large segment.
    alive = sum(int(memory.sizes[memory.escapes].sum()) for memory in found.memories)
    num_alive = sum(int(memory.escapes.sum()) for memory in found.memories)
    assert allocated - (2 << 20) * num_alive <= alive <= allocated
    assert sum(int(memory.blocks.sizes[memory.blocks.allocated].sum()) for memory in found.memories) == allocated
    if name != "overwritten":
        peaks = [memory.trace.peak_live_bytes for memory in found.memories]
        assert max(peaks) <= peak_allocated
        assert sum(peaks) >= 0.95 * peak_allocated
    assert {memory.oddities for memory in found.memories} == {Oddities()}


def test_a_graph_has_a_pool_of_its_own_and_a_stream_is_known() -> None:
    common, graph = read("graph").memories
    assert (common.pool, graph.pool) == ((0, 0), (1, 0))
    assert len(set(common.streams.tolist())) > 1


def test_requests_that_failed() -> None:
    first, second = read("out_of_memory").largest.ooms
    assert (first.requested_bytes, second.requested_bytes) == (82 << 20, 4 << 30)
    assert second.device_free_bytes > first.device_free_bytes > 0


def test_a_beginning_that_was_overwritten_is_known() -> None:
    memory = read("overwritten").largest
    assert int(memory.from_before.sum()) > 0
