"""Recordings: what they see, how they nest, and how they can be misused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import memomalloc
from memomalloc.errors import RecordingError
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, learn


def test_a_recording_sees_sizes_lifetimes_and_escapes() -> None:
    values = chain_values(0)
    with memomalloc.record() as recording:
        short = torch.sin(values)
        kept = short[:500].clone()
        del short
        torch.empty(0)
    trace = recording.trace
    assert trace.sizes.tolist() == [4000, 2000]
    assert trace.starts.tolist() == [0, 1]
    assert trace.ends.tolist() == [2, trace.end_tick]
    assert trace.escapes.tolist() == [False, True]
    assert trace.peak_live_bytes == 6000
    assert kept.numel() == 500


def test_frees_of_older_tensors_and_later_events_are_not_seen() -> None:
    old = torch.sin(chain_values(0))
    with memomalloc.record() as recording:
        del old
    torch.sin(chain_values(0))
    assert len(recording.trace) == 0


def test_recordings_nest_and_each_sees_its_own() -> None:
    values = chain_values(0)
    with memomalloc.record() as outer:
        torch.sin(values)
        with memomalloc.record() as inner:
            torch.cos(values[:10])
        torch.tan(values[:20])
    assert inner.trace.sizes.tolist() == [40]
    assert outer.trace.sizes.tolist() == [4000, 40, 80]


def test_other_threads_are_not_recorded_but_their_frees_are() -> None:
    values = chain_values(0)
    handed = []

    def other() -> None:
        torch.cos(values)
        handed.clear()

    with memomalloc.record() as recording:
        handed.append(torch.sin(values))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert recording.trace.sizes.tolist() == [4000]
    assert recording.trace.escapes.tolist() == [False]


def test_two_threads_record_at_once() -> None:
    barrier = threading.Barrier(2)
    traces = {}

    def record(size: int) -> None:
        with memomalloc.record() as recording:
            barrier.wait()
            for _ in range(50):
                torch.sin(chain_values(0)[:size])
            barrier.wait()
        traces[size] = recording.trace

    threads = [threading.Thread(target=record, args=(size,)) for size in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for size, trace in traces.items():
        assert trace.sizes.tolist().count(4 * size) == 50
        assert 4 * (30 - size) not in trace.sizes.tolist()


def test_calls_of_a_wrapper_are_recorded_whether_it_learns_or_replays() -> None:
    wrapper = memomalloc.optimize(Chain())
    with memomalloc.record() as expected:
        output = chain_result(chain_values(0))
    sizes = expected.trace.sizes.tolist()
    for _ in range(6):
        values = chain_values(0)
        with memomalloc.record() as recording:
            output = wrapper(values)
        assert recording.trace.sizes.tolist() == [size for size in sizes if size == 4000][-12:]
        assert recording.trace.escapes.tolist() == [False] * 11 + [True]
    assert wrapper.stats().runs_replayed > 0
    assert_equal_bits(output, chain_result(chain_values(0)))


def test_a_trace_survives_a_file_and_its_plan_too(tmp_path: Path) -> None:
    values = chain_values(0)
    with memomalloc.record() as recording:
        output = chain_result(values)
    recording.trace.save(tmp_path / "trace.json.gz")
    plan = memomalloc.plan(memomalloc.Trace.load(tmp_path / "trace.json.gz"))
    plan.save(tmp_path / "plan.json")
    loaded = memomalloc.Plan.load(tmp_path / "plan.json")
    assert loaded.arena_bytes == plan.lower_bound_bytes
    assert_equal_bits(output, chain_result(values))
    for seed in range(3):
        values = chain_values(seed)
        with memomalloc.replay(loaded) as replay:
            output = chain_result(values)
        assert replay.num_deviations == 0
        assert_equal_bits(output, chain_result(values))


def test_the_trace_is_not_there_before_the_block_has_ended() -> None:
    recording = memomalloc.record()
    with pytest.raises(RecordingError, match="complete when"):
        _ = recording.trace
    with recording, pytest.raises(RecordingError, match="complete when"):
        _ = recording.trace
    assert len(recording.trace) == 0


def test_a_recording_records_once() -> None:
    recording = memomalloc.record()
    with recording, pytest.raises(RecordingError, match="records once"):
        recording.__enter__()
    with pytest.raises(RecordingError, match="records once"):
        recording.__enter__()


def test_a_recording_that_was_never_begun_cannot_be_asked() -> None:
    recording = memomalloc.record()
    with pytest.raises(RecordingError):
        _ = recording.upstream_peak_bytes
    with pytest.raises(RecordingError):
        recording.__exit__(None, None, None)


def test_upstream_peak_is_what_the_process_grew_by() -> None:
    with memomalloc.record() as recording:
        torch.ones(2**23)
    assert 2**25 <= recording.upstream_peak_bytes < 2**26


def test_a_wrapper_called_by_a_wrapper_learns_beside_it() -> None:
    inner = memomalloc.optimize(torch.sin)
    outer = memomalloc.optimize(lambda values: inner(values) + values)
    learn(outer, chain_values(0))
    before = outer.stats()
    output = outer(chain_values(1))
    assert outer.stats().requests_served == before.requests_served + 2
    assert_equal_bits(output, torch.sin(chain_values(1)) + chain_values(1))
    learn(inner, chain_values(0))
