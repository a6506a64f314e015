from __future__ import annotations

import memomalloc
from memomalloc.cli.diff import BY_CHOICES
from memomalloc.data import Trace
from memomalloc.report.difference import DIFFERENCE_BY, Difference, difference
from memomalloc.report.placement import Placement
from sample_traces import MIB, small_trace


def compared(before: Trace, after: Trace, by: str = "origin", *, with_origins: bool = True) -> Difference:
    return difference(
        *(Placement.of_plan(memomalloc.plan(t), trace=t if with_origins else None) for t in (before, after)), by
    )


def test_nothing_changed() -> None:
    found = compared(small_trace(), small_trace())
    assert found.changes == ()
    assert found.num_unchanged == 5
    assert all(figure.before == figure.after for figure in found.figures)


def test_what_grew_most_at_the_peak_is_first() -> None:
    found = compared(small_trace(), small_trace(scale=2))
    assert [change.name for change in found.changes] == [
        "stem.conv: aten::scratch (scratch)",
        "body.0.act: aten::relu",
        "stem.conv: aten::conv2d",
        "head: aten::linear (escape)",
    ]
    first = found.changes[0]
    assert (first.bytes_before, first.bytes_after, first.peak_bytes_after) == (3 * MIB, 6 * MIB, 6 * MIB)
    assert found.num_unchanged == 1
    assert {figure.name: (figure.before, figure.after) for figure in found.figures}["buffers"] == (5, 5)


def test_what_came_and_what_went() -> None:
    whole = small_trace()
    part = Trace.from_arrays(
        whole.sizes[1:], whole.starts[1:], whole.ends[1:], whole.escapes[1:], end_tick=12, origins=whole.origins[1:]
    )
    (gone,) = compared(whole, part, "module").changes
    assert (gone.name, gone.buffers_before, gone.buffers_after) == ("stem.conv", 2, 1)
    (came,) = compared(part, whole, "operator").changes
    assert (came.name, came.buffers_before, came.buffers_after) == ("aten::conv2d", 1, 2)


def test_plans_alone_are_told_apart_by_size() -> None:
    found = compared(small_trace(), small_trace(scale=2), with_origins=False)
    assert {change.name for change in found.changes} >= {"buffers of 1.00 MiB", "buffers of 6.00 MiB"}


def test_the_command_offers_what_there_is() -> None:
    assert BY_CHOICES == DIFFERENCE_BY
