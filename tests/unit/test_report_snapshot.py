"""The account of a snapshot, the step that repeats in it, its difference to another, and what is drawn of it."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import memomalloc
from caching_allocator import MIB, CachingAllocator, OutOfMemoryError, snapshot, stack, train, write
from memomalloc import SnapshotMemory, read_snapshot
from memomalloc.data import check
from memomalloc.errors import FileFormatError, OptionError
from memomalloc.report import snapshot_map, snapshot_marks
from memomalloc.report.placement import Mark
from memomalloc.report.snapshot_account import FROM_BEFORE, account_of, accounts_of, snapshot_summary
from memomalloc.report.snapshot_difference import snapshot_difference
from memomalloc.report.snapshot_map import corners, placements_of_memory, require_no_overlap
from memomalloc.report.snapshot_marks import marks_of
from memomalloc.report.snapshot_period import find_repetition, find_window, period_of, required_window


def memory_of(tmp_path: Path, allocator: CachingAllocator) -> SnapshotMemory:
    (memory,) = read_snapshot(write(tmp_path / "snapshot.pickle", allocator)).memories
    return memory


def test_every_byte_is_accounted_for(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    first, second = allocator.alloc(5 * MIB + 1), allocator.alloc(7 * MIB)  # one segment of 20 MiB
    third = allocator.alloc(30 * MIB, stream=4, frames=stack(8))  # one of its own
    allocator.alloc(1000)  # a small one of 2 MiB
    allocator.free(third)
    allocator.free(first)
    account = account_of(memory_of(tmp_path, allocator))
    peak, end = account.peak, account.end
    assert (peak.allocated_bytes, peak.reserved_bytes) == (42 * MIB + 1 + 1000, 52 * MIB)
    assert peak.fragmentation_bytes == 10 * MIB - 1001 == peak.free_in_used_bytes
    assert (end.allocated_bytes, end.reserved_bytes) == (7 * MIB + 1000, 52 * MIB)
    assert (end.free_in_used_bytes, end.free_segments_bytes) == (15 * MIB - 1000, 30 * MIB)
    assert account.lower_bound_bytes == 42 * MIB + 512 + 1024
    assert (account.num_inactive_split, account.inactive_split_bytes) == (3, 15 * MIB - 1024)
    assert account.rounding_bytes == 24
    assert [(one.stream, one.peak_reserved_bytes, one.end_allocated_bytes) for one in account.streams] == [
        (4, 30 * MIB, 0),
        (0, 22 * MIB, 7 * MIB + 1000),
    ]
    assert [(row.name, row.num_bytes) for row in account.alive_at_peak["source"]] == [
        ("/home/me/model.py:8", 30 * MIB),
        ("(unknown)", 12 * MIB + 1001),
    ]
    assert sum(row.num_bytes for row in account.never_freed) == 7 * MIB + 1000
    assert second


@pytest.mark.parametrize("seed", range(5))
def test_the_account_is_that_of_a_simple_sweep(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    allocator = CachingAllocator(expandable=seed % 2 == 1, max_entries=choose.choice([None, 100]))
    live: list[int] = []
    for _ in range(300):
        if live and choose.random() < 0.5:
            allocator.free(live.pop(choose.randrange(len(live))))
        else:
            live.append(allocator.alloc(choose.choice([100, 3000, 2 * MIB, 11 * MIB]) + choose.randrange(99)))
        if choose.random() < 0.03:
            allocator.empty_cache()
    memory = memory_of(tmp_path, allocator)
    account = account_of(memory)
    most = max(
        range(memory.end_tick), key=lambda t: (int(memory.sizes[(memory.starts <= t) & (t < memory.ends)].sum()), -t)
    )
    assert account.peak.tick == most
    assert account.end.reserved_bytes == allocator.reserved
    for moment in (account.peak, account.end):
        spans = memory.segments
        there = np.flatnonzero((spans.starts <= moment.tick) & (moment.tick < spans.ends))
        alive = np.flatnonzero((memory.starts <= moment.tick) & (moment.tick < memory.ends))
        assert moment.reserved_bytes == int(spans.sizes[there].sum())
        empty = 0
        for i in there:
            low, high = spans.addresses[i], spans.addresses[i] + spans.sizes[i]
            inside = (memory.addresses[alive] < high) & (memory.addresses[alive] + memory.sizes[alive] > low)
            empty += 0 if inside.any() else int(spans.sizes[i])
        assert moment.free_segments_bytes == empty
        assert moment.free_in_used_bytes + empty + moment.allocated_bytes == moment.reserved_bytes
    require_no_overlap(memory, tmp_path)


def test_out_of_memory_counts_all_pools_of_the_device(tmp_path: Path) -> None:
    allocator = CachingAllocator(capacity=60 * MIB)
    with allocator.private_pool((1, 0)):
        allocator.alloc(19 * MIB)
    allocator.alloc(MIB)
    with pytest.raises(OutOfMemoryError):
        allocator.alloc(50 * MIB, frames=stack(5))
    found = read_snapshot(write(tmp_path / "oom.pickle", allocator))
    account, private = accounts_of(found, found.memories)
    (event,) = account.ooms
    assert (event.source, event.requested_bytes) == ("/home/me/model.py:5", 50 * MIB)
    assert event.moment.reserved_bytes == allocator.reserved == account.end.reserved_bytes + private.end.reserved_bytes
    assert snapshot_summary(found, [account, private])["memories"][1]["memory"] == "0:1.0"


def test_a_program_that_runs_out_of_memory_again_and_again(tmp_path: Path) -> None:
    allocator = CachingAllocator(capacity=MIB)
    for _ in range(200):
        with pytest.raises(OutOfMemoryError):
            allocator.alloc(50 * MIB, frames=stack(5))
    account = account_of(memory_of(tmp_path, allocator))
    assert (account.num_ooms, len(account.ooms), account.num_buffers) == (200, 50, 0)
    assert account.ooms[0].moment.reserved_bytes == 0


def test_what_was_lost_is_in_the_account(tmp_path: Path) -> None:
    allocator = CachingAllocator(max_entries=30)
    train(allocator)
    account = account_of(memory_of(tmp_path, allocator))
    whole = CachingAllocator()
    train(whole)
    everything = memory_of(tmp_path, whole)
    lost = len(whole.entries) - 30
    alive = (everything.starts < lost) & (everything.ends >= lost)
    # Weights and states are known from the last state; of what was freed since, only the frees tell.
    assert (account.num_from_before, account.num_lost) == (int(alive.sum()), 8) == (11, 8)
    assert account.from_before_bytes == int(everything.sizes[alive].sum())
    assert {row.name for row in account.never_freed} == set()
    assert account.oddities == {}
    allocator = CachingAllocator()
    allocator.is_recording = False
    allocator.alloc(MIB)
    allocator.is_recording = True
    allocator.alloc(10)
    account = account_of(memory_of(tmp_path, allocator))
    assert (account.num_from_before, account.num_lost) == (1, 0)
    assert account.alive_at_peak["source"][0].name == FROM_BEFORE


# --- What repeats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length", "count"),
    [
        ("abcabcabc", 3, 3),
        ("xyabababababab", 2, 6),
        ("aabaabaab", 3, 3),
        ("qwabcdabcdabcdabcdzz", 4, 4),
        ("abbbcabbbcabbbc", 5, 3),
        ("aaaaaaaa", 1, 8),
    ],
)
def test_the_shortest_period_of_the_longest_stretch(text: str, length: int, count: int) -> None:
    found = find_repetition(np.frombuffer(text.encode(), np.uint8).astype(np.int64))
    assert found is not None
    assert (found.length, found.count) == (length, count)


def test_nothing_repeats_where_nothing_does() -> None:
    assert find_repetition(np.arange(1000)) is None
    assert find_repetition(np.zeros(0, np.int64)) is None
    assert find_repetition(np.array([1])) is None


@pytest.mark.parametrize("num_layers", [1, 3, 8])
def test_a_step_of_a_training_is_found_and_planned(tmp_path: Path, num_layers: int) -> None:
    allocator = CachingAllocator()
    train(allocator, num_steps=6, num_layers=num_layers)
    memory = memory_of(tmp_path, allocator)
    period = period_of(memory)
    assert period is not None
    assert period.num_allocations == 3 * num_layers
    assert period.num_repetitions == 5, "the first step makes the optimizer's state besides"
    lasting = sum(-(-(MIB // 2 + 100 * i) // 512) * 512 for i in range(num_layers)) * 2
    assert (period.lasting_bytes, period.kept_bytes) == (lasting, 0)
    # No plan of the whole history can be smaller than what the step needs; here it needs no more.
    whole = memomalloc.plan(memory.problem())
    assert period.needed_bytes == period.lasting_bytes + period.arena_bytes == whole.lower_bound_bytes
    assert period.saved_bytes == period.reserved_bytes - period.needed_bytes
    assert period.duration_us is not None


def test_a_plan_of_the_step_really_serves_every_step(tmp_path: Path) -> None:
    """The places of one step, used again in each, never give one byte to two buffers."""
    allocator = CachingAllocator()
    kept: list[int] = []
    for _ in range(8):  # each step's result lives until the middle of the next step
        held = [allocator.alloc(4 * MIB + i, frames=stack(i)) for i in range(3)]
        if kept:
            allocator.free(kept.pop())
        kept.append(allocator.alloc(9 * MIB, frames=stack(50)))
        for block in held:
            allocator.free(block)
    memory = memory_of(tmp_path, allocator)
    window = required_window(memory)
    problem, _, _ = window.problem(memory)
    planned = memomalloc.plan(problem)
    length = window.repetition.length
    assert len(problem) == length == 4
    carried = np.flatnonzero(problem.sizes == 9 * MIB)
    assert len(carried) == 1
    assert problem.ends[carried[0]] - problem.starts[carried[0]] == window.end_tick - window.start_tick
    # Lay it again and again: buffer i of the history gets the place of its like in the step.
    first, last = window.repetition.first, window.repetition.first + window.repetition.count * length
    offsets = planned.offsets[(np.arange(first, last) - window.first) % length]
    everything = memomalloc.Problem.from_arrays(
        memory.sizes[first:last], memory.starts[first:last], memory.ends[first:last]
    )
    assert (everything.ends - everything.starts).max() < window.end_tick - window.start_tick
    check(everything, offsets)


def test_what_each_step_keeps_for_ever_is_said(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    for _ in range(6):
        scratch = allocator.alloc(3 * MIB, frames=stack(1))
        allocator.alloc(MIB + 5, frames=stack(2))  # into a list that nobody empties
        allocator.free(scratch)
    period = period_of(memory_of(tmp_path, allocator))
    assert period is not None
    assert period.kept_bytes == MIB + 512
    assert period.arena_bytes == 3 * MIB


def test_steps_of_varying_sizes_are_told_by_who_asks(tmp_path: Path) -> None:
    allocator, choose = CachingAllocator(), random.Random(1)
    for _ in range(7):
        blocks = [allocator.alloc(choose.randrange(1, 9 * MIB), frames=stack(line)) for line in range(5)]
        for block in blocks:
            allocator.free(block)
    memory = memory_of(tmp_path, allocator)
    period = period_of(memory)
    assert period is not None
    assert (period.sizes_vary, period.num_allocations, period.num_repetitions) == (True, 5, 7)
    assert period.saved_bytes > 0


def test_no_period_no_plan_of_it(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    for i in range(20):
        allocator.alloc(512 * (i + 1), frames=stack(i))
    memory = memory_of(tmp_path, allocator)
    assert find_window(memory) is None
    assert account_of(memory).period is None
    with pytest.raises(OptionError, match="nothing repeats"):
        required_window(memory)


# --- Pictures and differences --------------------------------------------------------------------------------------


def test_the_map_has_segments_around_the_buffers(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator)
    memory = memory_of(tmp_path, allocator)
    planned = memomalloc.plan(memory.problem())
    real, beside = placements_of_memory(memory, planned)
    reserved = real.reserved
    assert reserved is not None
    assert reserved.bytes.peak_live_bytes == account_of(memory).peak_reserved_bytes
    for i in range(len(real)):
        inside = (reserved.offsets <= real.offsets[i]) & (
            real.offsets[i] + real.sizes[i] <= reserved.offsets + reserved.sizes
        )
        assert (inside & (reserved.starts <= real.starts[i]) & (real.ends[i] <= reserved.ends)).any()
    assert beside.extent_bytes == planned.arena_bytes < real.extent_bytes
    assert np.array_equal(real.sizes, beside.sizes)
    assert real.live_bytes.peak_live_bytes == memory.trace.peak_live_bytes
    assert real.note == beside.note == ""


def test_what_is_left_out_of_a_large_map_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = CachingAllocator()
    train(allocator, num_steps=40)
    memory = memory_of(tmp_path, allocator)
    monkeypatch.setattr(snapshot_map, "MAX_RECTANGLES", 100)
    monkeypatch.setattr(snapshot_map, "_RESOLUTION", 10)
    real, beside = placements_of_memory(memory, memomalloc.plan(memory.problem()))
    assert len(real) < 100 < len(memory)
    assert f"{len(memory):,} buffers, {len(real):,} rectangles" in real.note
    assert len(beside) == 100
    assert "the largest are drawn" in beside.note
    # The curve is of all of them.
    assert real.live_bytes.peak_live_bytes == beside.live_bytes.peak_live_bytes == memory.trace.peak_live_bytes
    # What is merged covers what it stands for.
    assert int(real.sizes @ (real.ends - real.starts)) >= int(memory.sizes @ (memory.ends - memory.starts))


def test_a_long_curve_keeps_its_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = CachingAllocator()
    train(allocator, num_steps=40)
    (real,) = placements_of_memory(memory_of(tmp_path, allocator), None)
    monkeypatch.setattr(snapshot_map, "MAX_CORNERS", 50)
    assert real.reserved is not None
    ticks, live, reserved = corners(real.live_bytes, real.reserved.bytes)
    assert len(ticks) <= 50
    assert live.max() == real.live_bytes.peak_live_bytes
    assert reserved is not None
    assert reserved.max() == real.reserved.bytes.peak_live_bytes
    assert live[-1] == 0


def test_a_part_of_a_history(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator)
    memory = memory_of(tmp_path, allocator)
    window = required_window(memory)
    part = memory.between(window.start_tick, window.end_tick)
    for tick in range(window.start_tick, window.end_tick):
        alive = [int(one.sizes[(one.starts <= tick) & (tick < one.ends)].sum()) for one in (memory, part)]
        assert alive[0] == alive[1]
    assert len(part.trace) == len(part)
    assert int(part.from_before.sum()) == 8
    assert account_of(part, with_period=False).peak.reserved_bytes == account_of(memory).peak_reserved_bytes


def test_the_difference_of_two_snapshots(tmp_path: Path) -> None:
    before, after = CachingAllocator(), CachingAllocator()
    train(before)
    train(after, unit=2 * MIB)
    first, second = memory_of(tmp_path, before), memory_of(tmp_path, after)
    same = snapshot_difference(first, first)
    assert (same.changes, same.num_unchanged) == ((), 14)
    found = snapshot_difference(first, second, by="source")
    figures = {figure.name: (figure.before, figure.after) for figure in found.figures}
    assert figures["allocated at the peak"] == (before.peak_allocated, after.peak_allocated)
    assert figures["reserved at the end"] == (before.reserved, after.reserved)
    (change,) = (change for change in found.changes if change.name == "/home/me/layer0.py:30")
    assert (change.buffers_before, change.buffers_after, change.bytes_after) == (6, 6, 12 * MIB)


def test_events_that_do_not_go_together_are_found(tmp_path: Path) -> None:
    allocator = CachingAllocator()
    train(allocator)
    made = snapshot(allocator)
    for entry in made["device_traces"][0][20:30]:
        if entry["action"] == "alloc":
            entry["addr"] = made["device_traces"][0][1]["addr"] + 64
    path = tmp_path / "odd.pickle"
    path.write_bytes(pickle.dumps(made))
    (memory,) = read_snapshot(path).memories
    assert account_of(memory).oddities
    with pytest.raises(FileFormatError, match="share bytes"):
        require_no_overlap(memory, path)


# --- What the program said of times


def with_notes(allocator: CachingAllocator, tmp_path: Path) -> tuple[SnapshotMemory, tuple[Mark, ...], str]:
    snapshot = memomalloc.read_snapshot(write(tmp_path / "notes.pickle", allocator))
    (memory,) = snapshot.memories
    return (memory, *marks_of(memory, snapshot.annotations))


def event(allocator: CachingAllocator) -> None:
    allocator.free(allocator.alloc(1000))


def test_what_the_program_said_of_times_is_in_ticks(tmp_path: Path) -> None:
    allocator = CachingAllocator(capacity=8 * MIB)
    event(allocator)  # the segment, a buffer, its two frees
    allocator.annotate("outer", "START")
    allocator.annotate("inner", "START")
    event(allocator)
    allocator.annotate("inner", "END")
    allocator.annotate("half way", "")
    event(allocator)
    allocator.annotate("outer", "END")
    allocator.annotate("without events", "START")
    allocator.annotate("without events", "END")
    allocator.annotate("never ends", "START")
    with pytest.raises(OutOfMemoryError):
        allocator.alloc(16 * MIB)
    memory, marks, left_out = with_notes(allocator, tmp_path)
    assert left_out == ""
    first, end = 4, memory.end_tick
    assert marks == (
        Mark("outer", first, first + 6, 0),
        Mark("inner", first, first + 3, 1),
        Mark("half way", first + 3, first + 3, 0, is_moment=True),
        Mark("never ends", first + 6, end, 0),
        Mark("out of memory: 16.0 MiB", end - 1, end - 1, 0, is_moment=True, is_failure=True),
    )


def test_marks_of_a_lost_beginning_of_a_part_and_of_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = CachingAllocator(max_entries=6)
    allocator.annotate("began long ago", "START")
    for _ in range(5):
        event(allocator)
    allocator.annotate("began long ago", "END")
    allocator.annotate("last", "START")
    event(allocator)
    allocator.annotate("last", "END")
    memory, marks, _ = with_notes(allocator, tmp_path)
    (whole, last) = marks
    assert (whole.start, whole.end, last.start, last.end) == (
        int(memory.starts[0]), memory.end_tick - 3, memory.end_tick - 3, memory.end_tick,
    )  # fmt: skip
    # Of a part, what lies outside is none of it, and what goes beyond it is cut off.
    snapshot = memomalloc.read_snapshot(tmp_path / "notes.pickle")
    part = memory.between(memory.end_tick - 2, memory.end_tick)
    assert [(mark.name, mark.start) for mark in marks_of(part, snapshot.annotations)[0]] == [
        ("last", int(part.starts[0])),
    ]  # fmt: skip
    monkeypatch.setattr(snapshot_marks, "MAX_MARKS", 1)
    (longest,), left_out = marks_of(memory, snapshot.annotations)
    assert longest.name == "began long ago"
    assert left_out == "of 2 annotations the 1 longest"


def test_without_times_nobody_knows_where_annotations_belong(tmp_path: Path) -> None:
    allocator = CachingAllocator(with_times=False)
    allocator.annotate("step", "START")
    event(allocator)
    allocator.annotate("step", "END")
    assert with_notes(allocator, tmp_path)[1] == ()
