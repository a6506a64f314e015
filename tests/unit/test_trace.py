from __future__ import annotations

import pytest

from memomalloc.data import Origin, Trace, TracedBuffer
from memomalloc.errors import InvalidProblemError
from memomalloc.planners import plan


def test_escapes_live_to_the_end_and_own_their_place() -> None:
    trace = Trace.from_arrays([100, 200, 300], [0, 1, 4], [3, 5, 0], [False, False, True])
    assert trace.end_tick == 5
    assert trace.ends.tolist() == [3, 5, 5]
    problem = trace.problem()
    assert problem.sizes.tolist() == [128, 256, 320]
    assert problem.starts.tolist() == [0, 1, 0]
    assert problem.ends.tolist() == [3, 5, 5]
    planned = plan(trace)
    assert planned.starts.tolist() == trace.starts.tolist()
    assert planned.escapes.tolist() == [False, False, True]
    assert planned.problem.starts.tolist() == problem.starts.tolist()
    assert planned.smallest_sizes.tolist() == problem.sizes.tolist()


def test_peak_live_bytes_are_of_the_requested_sizes() -> None:
    trace = Trace.from_arrays([1, 2, 4], [0, 1, 3], [2, 9, 4])
    assert trace.peak_live_bytes == 6


def test_buffers_one_by_one() -> None:
    origin = Origin(("aten::add",), "layer")
    trace = Trace.from_arrays([1, 2], [0, 1], [2, 3], origins=[origin, None])
    assert trace.buffers[0] == TracedBuffer(1, 0, 2, False, origin)
    assert [buffer.size_bytes for buffer in trace.buffers] == [1, 2]
    assert trace.buffers[-1:] == [TracedBuffer(2, 1, 3, False, None)]
    assert origin.operator == "aten::add"
    assert Origin().operator == ""


def test_empty_trace() -> None:
    trace = Trace.from_arrays([], [], [])
    assert (len(trace), trace.end_tick, trace.peak_live_bytes) == (0, 0, 0)
    assert plan(trace).arena_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [0, 0], [1, 1]), "buffer 1 of the trace: it is not allocated after"),
        (([1, 1], [5, 3], [6, 6]), "buffer 1 of the trace: it is not allocated after"),
        (([-1], [0], [1]), "its size is negative"),
        (([1], [3], [3]), "it is not freed after"),
        (([1, 1], [0], [1, 1]), "starts has 1 entries"),
        (([1.5], [0], [1]), "not a whole number"),
    ],
)
def test_what_is_refused(arguments: tuple[list[int], list[int], list[int]], message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        Trace.from_arrays(*arguments)


def test_nothing_is_after_the_end() -> None:
    with pytest.raises(InvalidProblemError, match="ends after the trace"):
        Trace.from_arrays([1], [0], [9], end_tick=5)
    with pytest.raises(InvalidProblemError, match="origins has 0 entries"):
        Trace.from_arrays([1], [0], [9], origins=[])
