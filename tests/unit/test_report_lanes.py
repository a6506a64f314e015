from __future__ import annotations

import dataclasses

import memomalloc
from memomalloc.data import Trace
from memomalloc.report.groups import groups
from memomalloc.report.html_page import page_text
from memomalloc.report.lanes import placement_in_lanes, threads_of
from memomalloc.report.summary import summary
from sample_traces import MIB, small_trace


def of_threads(*names: str) -> Trace:
    """The small trace, its buffers asked for by threads in turn."""
    trace = small_trace()
    origins = [
        None if origin is None else dataclasses.replace(origin, thread=names[i % len(names)])
        for i, origin in enumerate(trace.origins)
    ]
    return Trace.from_arrays(
        trace.sizes, trace.starts, trace.ends, trace.escapes, end_tick=trace.end_tick, origins=origins
    )


def test_each_thread_has_a_lane_that_no_other_uses() -> None:
    trace = of_threads("main", "worker")
    assert threads_of(trace) == ("main", "worker")
    placement = placement_in_lanes(trace, memomalloc.plan)
    assert [(lane.thread, lane.offset) for lane in placement.lanes] == [
        ("main", 0),
        ("worker", placement.lanes[0].size_bytes),
    ]
    assert placement.extent_bytes == sum(lane.size_bytes for lane in placement.lanes)
    for i, origin in enumerate(placement.origins):
        (lane,) = (lane for lane in placement.lanes if origin is not None and lane.thread == origin.thread)
        assert lane.offset <= placement.offsets[i]
        assert placement.offsets[i] + placement.sizes[i] <= lane.offset + lane.size_bytes
    for i in range(len(trace)):
        for j in range(i):
            together = trace.starts[i] < trace.ends[j] and trace.starts[j] < trace.ends[i]
            apart = (
                placement.offsets[i] + trace.sizes[i] <= placement.offsets[j]
                or placement.offsets[j] + trace.sizes[j] <= placement.offsets[i]
            )
            assert apart or not together


def test_lanes_are_told_and_drawn() -> None:
    placement = placement_in_lanes(of_threads("main", "worker"), memomalloc.plan)
    assert [group.name for group in groups(placement, "thread")] == ["worker", "main"]
    assert [lane["thread"] for lane in summary(placement)["lanes"]] == ["main", "worker"]
    assert '"lanes":[["main",0],["worker",' in page_text([placement], title="both")
    assert placement.extent_bytes >= 5 * MIB


def test_most_traces_are_of_one_thread() -> None:
    assert threads_of(small_trace()) == ("",)
    assert [group.name for group in groups(placement_in_lanes(small_trace(), memomalloc.plan), "thread")] == [
        "(one thread)"
    ]
