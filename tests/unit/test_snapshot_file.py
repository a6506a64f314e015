"""Reading snapshots of GPUs: the rows are what the allocator did, and a file can do nothing but be read or refused."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import pickle
import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memomalloc
from caching_allocator import MIB, CachingAllocator, OutOfMemoryError, snapshot, stack, train, write
from memomalloc import Snapshot, SnapshotMemory, read_snapshot
from memomalloc.errors import FileFormatError
from memomalloc.report import Placement, write_snapshot
from sample_traces import small_trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pickle"


def read(path: Path, *allocators: CachingAllocator, protocol: int = 4) -> Snapshot:
    return read_snapshot(write(path, *allocators, protocol=protocol))


def only(found: Snapshot) -> SnapshotMemory:
    (memory,) = found.memories
    return memory


def reserved_at(memory: SnapshotMemory, tick: int) -> int:
    there = (memory.segments.starts <= tick) & (tick < memory.segments.ends)
    return int(memory.segments.sizes[there].sum())


# --- What is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_a_training_is_read_as_it_was(path: Path, protocol: int) -> None:
    allocator = CachingAllocator()
    train(allocator)
    found = read(path, allocator, protocol=protocol)
    memory = only(found)
    assert found.num_events == len(allocator.entries)
    assert memory.trace.peak_live_bytes == allocator.peak_allocated
    assert reserved_at(memory, memory.end_tick - 1) == allocator.reserved
    assert int(memory.sizes[memory.escapes].sum()) == allocator.allocated
    assert (memory.num_lost, int(memory.from_before.sum()), memory.oddities.extra_frees) == (0, 0, 0)
    origin = memory.trace.origins[4]
    assert origin is not None
    assert (origin.operator, origin.module_path) == ("torch.nn.functional.conv2d", "layer0")
    assert origin.source is not None
    assert str(origin.source) == "/home/me/layer0.py:20 in forward"
    assert [note.name for note in found.annotations[:2]] == ["step", "step"]
    assert found.settings["roundup_power2_divisions.1"] == "0"


@pytest.mark.parametrize("max_entries", [1, 2, 3, 7, 20, 41, 100, 200])
def test_the_lost_beginning_is_found_and_stated(path: Path, max_entries: int) -> None:
    whole, ring = CachingAllocator(), CachingAllocator(max_entries=max_entries)
    for allocator in (whole, ring):
        train(allocator)
    all_of_it, rest = only(read(path, whole)), only(read(path, ring))
    missing = len(whole.entries) - max_entries
    # What was alive at each event of the rest, and what was reserved, is what it was in the whole.
    for event in range(max_entries):
        before, after = missing + event + all_of_it.first_event_tick, event + rest.first_event_tick
        alive = [int(m.sizes[(m.starts <= t) & (t < m.ends)].sum()) for m, t in ((all_of_it, before), (rest, after))]
        assert alive[0] == alive[1], event
        assert reserved_at(all_of_it, before) == reserved_at(rest, after)
    alive_then = (all_of_it.starts < missing) & (all_of_it.ends >= missing)
    assert int(rest.from_before.sum()) == int(alive_then.sum())
    assert rest.num_lost == int((alive_then & all_of_it.escapes).sum())
    assert np.array_equal(np.sort(rest.addresses[rest.from_before]), rest.addresses[rest.from_before])


def test_what_was_allocated_before_recording_is_there_without_origin(path: Path) -> None:
    allocator = CachingAllocator()
    allocator.is_recording = False
    weight, old = allocator.alloc(5 * MIB), allocator.alloc(3 * MIB)
    allocator.is_recording = True
    new = allocator.alloc(MIB, frames=stack(1))
    allocator.free(old)
    memory = only(read(path, allocator))
    assert memory.addresses.tolist() == [weight, old, new]
    assert memory.from_before.tolist() == [True, True, False]
    assert memory.escapes.tolist() == [True, False, True]
    assert memory.trace.origins[:2] == (None, None)
    assert memory.num_lost == 0
    assert memory.sizes.tolist() == [5 * MIB, 3 * MIB, MIB]


def test_devices_pools_and_streams_are_told_apart(path: Path) -> None:
    first, second = CachingAllocator(), CachingAllocator(device=1)
    first.alloc(MIB, stream=7)
    with first.private_pool((3, 0)):
        in_graph = first.alloc(2 * MIB)
    first.alloc(4 * MIB)
    second.alloc(100)
    found = read(path, first, second)
    assert [memory.id for memory in found.memories] == ["0", "0:3.0", "1"]
    common, private, other = found.memories
    assert (private.addresses.tolist(), private.sizes.tolist()) == ([in_graph], [2 * MIB])
    assert sorted(common.streams.tolist()) == [0, 7]
    assert sorted(set(common.segments.streams.tolist())) == [0, 7]
    assert int(other.sizes.sum()) == 100
    assert found.largest is common


def test_pools_are_known_without_events_that_say_them(path: Path) -> None:
    allocator = CachingAllocator(with_pools=False, with_times=False)
    with allocator.private_pool((1, 2)):
        allocator.alloc(MIB)
    allocator.alloc(2 * MIB)
    found = read(path, allocator)
    assert [(memory.pool, memory.sizes.tolist()) for memory in found.memories] == [((0, 0), [2 * MIB]), ((1, 2), [MIB])]
    assert found.memories[0].time_us_at(0) is None


def test_expandable_segments_grow_and_shrink(path: Path) -> None:
    allocator = CachingAllocator(expandable=True)
    blocks = [allocator.alloc(9 * MIB) for _ in range(5)]
    grown = allocator.reserved
    at = len(allocator.entries)
    for block in blocks:
        allocator.free(block)
    allocator.empty_cache()
    allocator.alloc(100)
    memory = only(read(path, allocator))
    assert reserved_at(memory, at - 1) == grown == 60 * MIB
    assert reserved_at(memory, memory.end_tick - 1) == allocator.reserved == 2 * MIB


def test_a_block_that_waits_for_a_stream_is_alive(path: Path) -> None:
    allocator = CachingAllocator()
    done, waiting = allocator.alloc(MIB), allocator.alloc(2 * MIB)
    allocator.free(done)
    allocator.free(waiting, completes=False)
    memory = only(read(path, allocator))
    assert memory.escapes.tolist() == [False, True]
    assert memory.blocks.awaiting.sum() == 1
    assert memory.oddities.not_at_the_end == 0


def test_running_out_of_memory_is_an_event(path: Path) -> None:
    allocator = CachingAllocator(capacity=50 * MIB)
    allocator.alloc(30 * MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.alloc(40 * MIB, frames=stack(99))
    (event,) = only(read(path, allocator)).ooms
    assert (event.requested_bytes, event.device_free_bytes, event.tick) == (40 * MIB, 20 * MIB, 2)
    assert event.time_us is not None


@pytest.mark.parametrize("skipped", ["free_requested", "free_completed", "alloc"])
def test_events_that_were_not_recorded_are_made_do_without(path: Path, skipped: str) -> None:
    allocator = CachingAllocator()
    train(allocator)
    made = snapshot(allocator)
    made["device_traces"] = [[entry for entry in allocator.entries if entry["action"] != skipped]]
    path.write_bytes(pickle.dumps(made))
    memory = only(read_snapshot(path))
    if skipped == "alloc":
        assert memory.oddities.extra_frees > 0
    else:
        assert memory.trace.peak_live_bytes == allocator.peak_allocated
        assert int(memory.sizes[memory.escapes].sum()) == allocator.allocated


def test_a_state_without_a_history(path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator)
    made = snapshot(allocator)
    for content in ({**made, "device_traces": []}, {"segments": made["segments"]}, made["segments"]):
        path.write_bytes(pickle.dumps(content))
        memory = only(read_snapshot(path))
        assert memory.escapes.all()
        assert int(memory.sizes.sum()) == allocator.allocated
        assert reserved_at(memory, 0) == allocator.reserved
        assert memory.trace.peak_live_bytes == allocator.allocated
        assert memory.num_lost == 0
        assert memory.trace.origins[0] is not None


def test_blocks_as_older_versions_of_torch_wrote_them(path: Path) -> None:
    frames = [{"filename": "old.py", "line": 4, "name": "f"}]
    blocks = [
        {"size": 1024, "state": "active_allocated", "history": [{"addr": 1, "real_size": 1000, "frames": frames}]},
        {"size": 512, "state": "inactive"},
        {"size": 512, "state": "active_allocated", "history": [{"addr": 1, "real_size": 7}]},
    ]
    segment = {"device": 0, "address": 4096, "total_size": 2048, "stream": 0, "segment_type": "small", "blocks": blocks}
    path.write_bytes(pickle.dumps([segment], protocol=2))
    memory = only(read_snapshot(path))
    assert (memory.addresses.tolist(), memory.sizes.tolist()) == ([4096, 4096 + 1536], [1000, 7])
    assert memory.trace.origins[0] is not None
    assert str(memory.trace.origins[0].source) == "old.py:4 in f"


def test_pinned_memory_of_the_host_is_a_memory(path: Path) -> None:
    device, host = CachingAllocator(), CachingAllocator()
    device.alloc(MIB)
    host.alloc(3 * MIB)
    made = snapshot(device)
    pinned = snapshot(host)
    made |= {"host_segments": pinned["segments"], "host_traces": pinned["device_traces"], "something_new": 1}
    path.write_bytes(pickle.dumps(made))
    found = read_snapshot(path)
    assert [(memory.id, memory.sizes.tolist()) for memory in found.memories] == [("0", [MIB]), ("host", [3 * MIB])]
    assert found.unknown_keys == ("something_new",)


def test_operators_of_cpp_frames_and_nodes_of_compiled_graphs(path: Path) -> None:
    allocator = CachingAllocator()
    allocator.alloc(100, frames=stack(5, function="add", with_cpp=True))
    made = snapshot(allocator)
    frames = [
        {"filename": "/tmp/inductor/x.py", "line": 9, "name": "call", "fx_node_name": "relu_1", "fx_node_op": "c"}
    ]
    made["device_traces"][0].append({"action": "alloc", "addr": 64, "size": 8, "stream": 0, "frames": frames})
    path.write_bytes(pickle.dumps(made))
    first, second = only(read_snapshot(path)).trace.origins
    assert first is not None
    assert second is not None
    assert (first.operators, first.module_path) == (("aten::add",), "model")
    assert second.operators == ("relu_1",)


def test_what_the_program_said_of_an_allocation_is_an_annotation(path: Path) -> None:
    allocator = CachingAllocator()
    address = allocator.alloc(100)
    made = snapshot(allocator)
    said = {"action": "annotate", "addr": address, "size": 100, "stream": 0, "time_us": 77, "user_metadata": "packed"}
    made["device_traces"][0].append(said)
    made["device_traces"][0].append({**said, "action": "something newer"})
    path.write_bytes(pickle.dumps(made))
    found = read_snapshot(path)
    assert [(note.device, note.time_us, note.name, note.stage) for note in found.annotations] == [(0, 77, "packed", "")]
    assert only(found).oddities.unknown_events == 1
    assert only(found).sizes.tolist() == [100]


def cpp_pickled(value: Any, texts: dict[str, int]) -> bytes:
    """As torch's own pickler in C++ writes: protocol 2, texts by number, each container in one piece."""
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        if value in texts:
            return b"h" + bytes([texts[value]]) if texts[value] < 256 else b"j" + struct.pack("<I", texts[value])
        number = texts[value] = len(texts)
        put = b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)
        return b"X" + struct.pack("<I", len(value)) + value.encode() + put
    if isinstance(value, dict):
        return b"}(" + b"".join(cpp_pickled(part, texts) for item in value.items() for part in item) + b"u"
    end = b"t" if isinstance(value, tuple) else b"e"
    return (b"(" if end == b"t" else b"](") + b"".join(cpp_pickled(item, texts) for item in value) + end


def test_what_torchs_pickler_in_cpp_writes(path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator, num_steps=40)
    content = cpp_pickled(snapshot(allocator), {})
    made = pickle.loads(b"\x80\x02" + content + b".")
    assert made == snapshot(allocator)
    path.write_bytes(b"\x80\x02" + content + b".")
    memory = only(read_snapshot(path))
    assert memory.trace.peak_live_bytes == allocator.peak_allocated
    assert reserved_at(memory, memory.end_tick - 1) == allocator.reserved


def test_files_of_other_devices_lack_some_keys(path: Path) -> None:
    """XPU's have neither pools nor settings, and segments that are mapped."""
    allocator = CachingAllocator(expandable=True, with_pools=False)
    train(allocator)
    made = snapshot(allocator)
    for segment in made["segments"]:
        del segment["segment_pool_id"], segment["is_expandable"], segment["frames"]
    path.write_bytes(pickle.dumps({key: made[key] for key in ("segments", "device_traces")}))
    memory = only(read_snapshot(path))
    assert memory.trace.peak_live_bytes == allocator.peak_allocated
    assert (memory.pool, reserved_at(memory, memory.end_tick - 1)) == ((0, 0), allocator.reserved)


def test_what_memomalloc_exports_is_read_back(path: Path) -> None:
    trace = small_trace()
    plan = memomalloc.plan(trace)
    write_snapshot(Placement.of_plan(plan, trace=trace), path)
    memory = only(read_snapshot(path))
    assert memory.trace.peak_live_bytes == trace.peak_live_bytes
    assert sorted(memory.sizes.tolist()) == sorted(trace.sizes.tolist())
    offsets = (memory.addresses - memory.segments.addresses.min()).tolist()
    assert sorted(offsets) == sorted(plan.offsets.tolist())


def test_compressed_and_piped(path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator, num_steps=60)
    content = write(path, allocator).read_bytes()
    packed = path.with_suffix(".pickle.gz")
    packed.write_bytes(gzip.compress(content))
    assert only(read_snapshot(packed)).trace.peak_live_bytes == allocator.peak_allocated
    descriptors = os.pipe()
    if os.fork() == 0:
        os.close(descriptors[0])
        with os.fdopen(descriptors[1], "wb") as pipe:
            pipe.write(content)
        os._exit(0)
    os.close(descriptors[1])
    told: list[int] = []
    piped = read_snapshot(f"/dev/fd/{descriptors[0]}", progress=told.append)
    os.close(descriptors[0])
    os.wait()
    assert only(piped).trace.peak_live_bytes == allocator.peak_allocated
    assert told[-1] == len(content)


def test_torchs_own_reader_agrees(path: Path) -> None:
    viz = importlib.import_module("torch.cuda._memory_viz")
    allocator = CachingAllocator(expandable=True)
    train(allocator)
    with allocator.private_pool((1, 0)):
        allocator.alloc(5 * MIB, stream=3)
    made = snapshot(allocator)
    memories = read(path, allocator).memories
    # Its summary raises where blocks do not fill their segments.
    said = viz.segsum(made)
    assert f"total_reserved: {viz.Bytes(sum(reserved_at(memory, memory.end_tick - 1) for memory in memories))}" in said
    alive = sum(int(memory.sizes[memory.escapes].sum()) for memory in memories)
    assert f"total_allocated: {viz.Bytes(alive)}" in said
    left = viz.filter_alloc_free_pairs(pickle.loads(pickle.dumps(made)))["device_traces"][0]
    still = [entry["addr"] for entry in left if entry["action"] == "alloc"]
    assert sorted(still) == sorted(
        address for memory in memories for address in memory.addresses[memory.escapes].tolist()
    )
    listed = viz.memory(made, format_flamegraph=str).splitlines()
    active = sum(
        int(line.rpartition(" ")[2]) for line in listed if ";active_allocated;" in line and "<gaps>" not in line
    )
    assert active == alive


# --- What is refused -----------------------------------------------------------------------------------------------


class Malice:
    """Runs a command when it is unpickled as pickles usually are."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with pytest.raises(FileFormatError) as caught:
        read_snapshot(path)
    assert time.perf_counter() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "in KiB"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_in_a_file_is_run(path: Path, tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "was here"
    for content in (Malice(mark), {"segments": [], "device_traces": [[Malice(mark)]]}, [{"frames": [Malice(mark)]}]):
        assert "do not unpickle" in refused(path, pickle.dumps(content, protocol=protocol))
    assert not mark.exists()


def test_whatever_is_no_plain_data_is_refused(path: Path) -> None:
    out_of_band: list[pickle.PickleBuffer] = []
    buffer = pickle.dumps([pickle.PickleBuffer(b"x" * 10)], protocol=5, buffer_callback=out_of_band.append)
    for content in (
        buffer,
        pickle.dumps([np.zeros(3)]),
        pickle.dumps([{1, 2}]),
        pickle.dumps([frozenset({1})]),
        pickle.dumps([b"bytes"]),
        pickle.dumps([bytearray(b"bytes")], protocol=5),
        pickle.dumps([Path("x")]),
        pickle.dumps([print]),
        b"\x80\x04\x82\x01.",
        b"\x80\x04]\x94Pid\n.",
        b"(dp0\ncos\nsystem\n.",
        b"\x80\x04]\x94" + b"c__builtin__\neval\n" + b".",
    ):
        assert "do not unpickle" in refused(path, content)


def test_bombs_of_all_kinds(path: Path) -> None:
    memo_bomb = b"\x80\x04]\x94" + b"".join(b"]\x94(" + b"h%c" % i * 200 + b"e" for i in range(200)) + b"."
    for content in (
        b"\x80\x04" + b"]" * 2_000_000,
        b"\x80\x04" + b"(" * 3_000_000,
        b"\x80\x04" + b"}" * 3_000_000 + b".",
        b"\x80\x04]" * 1 + b"]a" * 0 + b"(" * 500_000 + b"t" * 500_000 + b"a.",
        b"\x80\x04]\x94r\xff\xff\xff\xff.",
        b"\x80\x04]\x94q\xff.",
        b"\x80\x04X\xff\xff\xff\xff",
        b"\x80\x04\x8d" + b"\xff" * 8,
        b"\x80\x04\x8b\xff\xff\xff\x7f",
        b"\x80\x04\x8a\xff" + b"\x01" * 255 + b".",
        b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        b"\x80\xffN.",
        memo_bomb,
        pickle.dumps(None),
        pickle.dumps({}),
        pickle.dumps([]),
        pickle.dumps([[]] * 10),
        pickle.dumps({"segments": 1, "device_traces": []}),
        pickle.dumps({"segments": [], "device_traces": [7]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc"}]]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": -1, "size": 1}]]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1, "size": 2**62}]]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 2**64, "size": 1}]]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": "x", "size": 1}]]}),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1.5, "size": 1}]]}),
        pickle.dumps({"segments": [], "device_traces": [[]] * 5000}),
        pickle.dumps({"segments": [], "device_traces": [[] for _ in range(300)]}),
        pickle.dumps(
            {
                "segments": [],
                "device_traces": [
                    [{"action": "alloc", "addr": 64 * i, "size": 1, "pool_id": (i, 0)} for i in range(5000)]
                ],
            }
        ),
        pickle.dumps({"segments": [{"address": i << 50, "total_size": 2**50, "blocks": []} for i in range(4000)]}),
        pickle.dumps([{"device": 10**9, "address": 0, "total_size": 1, "blocks": []}]),
        pickle.dumps([{"device": -5, "address": 0, "total_size": 1, "blocks": []}]),
        pickle.dumps([{"address": 0, "total_size": -1, "blocks": []}]),
        pickle.dumps([{"address": 0, "total_size": 1, "blocks": [{"size": -4, "state": "inactive"}]}]),
        pickle.dumps([{"address": 0, "total_size": 1, "blocks": 3}]),
    ):
        refused(path, content)


def test_rows_that_are_named_twice(path: Path) -> None:
    segment = {"address": 512, "total_size": 512, "blocks": [{"size": 512, "state": "inactive", "address": 512}]}
    event = {"action": "alloc", "addr": 1, "size": 1}
    again = {**segment}
    for content in ([segment, segment], [segment, again], {"segments": [], "device_traces": [[event, event]]}):
        assert "twice" in refused(path, pickle.dumps(content)) or "two segments" in refused(path, pickle.dumps(content))


def test_every_truncated_file_is_refused(path: Path) -> None:
    allocator = CachingAllocator()
    allocator.alloc(100, frames=stack(1))
    content = pickle.dumps(snapshot(allocator))
    for size in range(2, len(content), 7):
        assert "truncated" in refused(path, content[:size])
    assert "more after the end" in refused(path, content + b"N")


def test_a_compressed_bomb(path: Path) -> None:
    refused(path, gzip.compress(b"\x80\x04]" + b"\x95\0\0\0\0\0\0\0\0" * 30_000_000, 9))


def test_what_is_another_file_is_said(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(FileFormatError, match="SQLite"):
        read_snapshot(path)
    with pytest.raises(FileFormatError, match="no such file"):
        read_snapshot(path.with_name("missing"))


def test_random_changes_do_no_harm(path: Path) -> None:
    allocator = CachingAllocator(max_entries=60)
    train(allocator, num_steps=2)
    made = snapshot(allocator)
    choose = random.Random(3)
    contents = [bytearray(pickle.dumps(made, protocol=protocol)) for protocol in (0, 2, 4)]
    accepted = 0
    for round_ in range(300):
        content = bytearray(contents[round_ % 3])
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(len(content))
            content[at : at + choose.randint(0, 2)] = choose.randbytes(choose.randint(0, 2))
        path.write_bytes(content)
        try:
            found = read_snapshot(path)
        except FileFormatError:
            continue
        accepted += 1
        for memory in found.memories:
            assert len(memory.trace) == len(memory)
            assert repr(memory)
    assert accepted


def test_memory_stays_in_proportion(path: Path) -> None:
    """Rows are a fraction of what Python's objects would be."""
    allocator = CachingAllocator()
    train(allocator, num_steps=300)
    content = pickle.dumps(snapshot(allocator))
    reader = importlib.import_module("memomalloc._snapshot").PickleReader(8 * len(content))
    file = io.BytesIO(content)
    while piece := file.read(1000):
        reader.feed(piece)
    assert len(reader.take()["event_action"]) == len(allocator.entries)
