from __future__ import annotations

import pytest

import memomalloc
from memomalloc.cli.show import BY_CHOICES
from memomalloc.report.groups import BY, Group, default_by, default_depth, groups
from memomalloc.report.placement import Placement
from sample_traces import KIB, MIB, large_trace, small_trace


def placed(*, with_origins: bool = True) -> Placement:
    trace = small_trace()
    return Placement.of_plan(memomalloc.plan(trace), trace=trace if with_origins else None)


def test_modules_at_a_depth() -> None:
    assert groups(placed(), "module", 1) == [
        Group("stem", 2, 4 * MIB, 3 * MIB, 4 * MIB),
        Group("body", 2, MIB + 64 * KIB, MIB, MIB),
        Group("head", 1, 2 * MIB, 2 * MIB, 0),
    ]


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("operator", "aten::scratch"),
        ("source", "/code/net.py:10"),
        ("role", "scratch"),
        ("size", "1 to 4 MiB"),
        ("module", "stem.conv"),
    ],
)
def test_what_is_most_at_the_peak_is_first(by: str, first: str) -> None:
    found = groups(placed(), by)
    assert found[0].name == first
    assert sum(group.num_buffers for group in found) == 5
    assert sum(group.peak_bytes for group in found) == 5 * MIB


def test_without_origins_there_are_sizes() -> None:
    assert default_by([placed(with_origins=False)]) == "size"
    assert [group.name for group in groups(placed(with_origins=False), "module")] == ["(unknown)"]


def test_the_default_depth_is_the_first_that_tells_something() -> None:
    trace = large_trace(1000)
    assert default_depth(Placement.of_plan(memomalloc.plan(trace, planner="skyline"), trace=trace)) == 3


def test_the_command_offers_what_there_is() -> None:
    assert BY_CHOICES == BY
