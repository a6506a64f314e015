"""Recordings: what they see, how they nest, and how they can be misused."""

from __future__ import annotations

import threading
from collections.abc import Callable
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


def calls_of(trace: memomalloc.Trace) -> list[tuple[str, list[int], list[int]]]:
    """The operators that were called, with the buffers that each read and the bytes of its other arguments."""
    calls = trace.calls
    reads = [calls.read_buffers[calls.reading_calls == call].tolist() for call in range(len(calls))]
    outside = [calls.outside_bytes[calls.outside_calls == call].tolist() for call in range(len(calls))]
    return list(zip([origin.operators[0] for origin in calls.origins], reads, outside, strict=True))


def test_a_recording_sees_who_reads_what() -> None:
    values, weight = chain_values(0), torch.nn.Parameter(torch.ones(1000))
    with torch.inference_mode(), memomalloc.record(calls=True) as recording:
        first = torch.sin(values)
        second = first + first[:1]
        third = torch.stack([first, second])
        fourth = third[1].view(10, 100) @ weight.view(100, 10)
        indexed = fourth[fourth.argmax(0), :]
    assert calls_of(recording.trace) == [
        ("aten::sin", [], [4000]),
        ("aten::slice", [0], []),
        ("aten::add", [0], []),
        ("aten::stack", [0, 1], []),
        ("aten::select", [2], []),
        ("aten::view", [2], []),
        ("aten::matmul", [2], [4000]),
        ("aten::argmax", [3], []),
        ("aten::index", [3, 4], []),
    ]
    calls = recording.trace.calls
    assert not calls.tracked.any()
    assert len(set(calls.frames.tolist())) == 1
    assert {origin.role for origin in calls.origins} == {"call"}
    assert indexed.shape == (10, 10)


def test_frames_tell_one_call_of_a_function_from_the_next() -> None:
    def inner(values: torch.Tensor) -> torch.Tensor:
        return values + 1

    values = chain_values(0)
    with torch.inference_mode(), memomalloc.record(calls=True) as recording:
        inner(inner(values) * 2)
    outer, *inside = (recording.trace.calls.frames[i] for i in (1, 0, 2))
    assert len({outer, *inside}) == 3


def test_autograd_keeps_what_is_read_for_a_gradient() -> None:
    model = torch.nn.Linear(10, 10)
    with memomalloc.record(calls=True) as recording:
        outputs = model(torch.ones(4, 10))
        with torch.no_grad():
            model(torch.ones(4, 10))
        outputs.sum().backward()
    calls = recording.trace.calls
    tracked = {origin.operators[0] for origin, kept in zip(calls.origins, calls.tracked, strict=True) if kept}
    assert tracked >= {"aten::linear", "aten::sum"}
    assert [
        kept for origin, kept in zip(calls.origins, calls.tracked, strict=True) if "linear" in origin.operators[0]
    ] == [
        True,
        False,
    ]


def test_a_script_reads_its_arguments_alone() -> None:
    def function(values: torch.Tensor) -> torch.Tensor:
        kept = torch.sin(values)
        other = torch.cos(values)
        return kept * torch.sin(other)

    values = chain_values(0)
    with torch.inference_mode():
        script = torch.jit.trace(function, (values,))
        for _ in range(3):
            script(values)
        with memomalloc.record(calls=True) as recording:
            script(values)
    reads = {name: read for name, read, _ in calls_of(recording.trace)}
    assert (reads["aten::cos"], reads["aten::mul"]) == ([], [0, 2])


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr], ids=["coo", "csr"])
def test_what_is_read_unseen_leaves_no_calls(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    values = torch.eye(10)
    with memomalloc.record(calls=True) as recording:
        make(values) @ values
    assert recording.trace.calls is None
    with memomalloc.record(calls=True) as recording:
        torch.sin(values)
    assert recording.trace.calls is not None


def test_frees_of_older_tensors_and_later_events_are_not_seen() -> None:
    old = torch.sin(chain_values(0))
    with memomalloc.record(calls=True) as recording:
        del old
    torch.sin(chain_values(0))
    assert len(recording.trace) == 0


def test_recordings_nest_and_each_sees_its_own() -> None:
    values = chain_values(0)
    with memomalloc.record(calls=True) as outer:
        torch.sin(values)
        with memomalloc.record(calls=True) as inner:
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

    with memomalloc.record(calls=True) as recording:
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
        with memomalloc.record(calls=True) as recording:
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
    with memomalloc.record(calls=True) as expected:
        output = chain_result(chain_values(0))
    sizes = expected.trace.sizes.tolist()
    for _ in range(6):
        values = chain_values(0)
        with memomalloc.record(calls=True) as recording:
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
