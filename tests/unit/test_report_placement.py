from __future__ import annotations

import numpy as np
import pytest

import memomalloc
from memomalloc.data import Trace
from memomalloc.errors import InvalidPlanError
from memomalloc.report.live_bytes import LiveBytes
from memomalloc.report.placement import MAX_GAP_BYTES, Placement
from sample_traces import MIB, small_trace


def test_a_plan_alone_does_not_know_who_asked() -> None:
    plan = memomalloc.plan(small_trace())
    assert not Placement.of_plan(plan).has_origins
    assert Placement.of_plan(plan, trace=small_trace()).has_origins


def test_the_trace_of_another_plan_is_refused() -> None:
    with pytest.raises(InvalidPlanError, match="not made from this trace"):
        Placement.of_plan(memomalloc.plan(small_trace()), trace=Trace.from_arrays([1], [0], [1]))


def test_peak_and_who_is_alive_at_it() -> None:
    placement = Placement.of_plan(memomalloc.plan(small_trace()), trace=small_trace())
    assert (placement.live_bytes.peak_tick, placement.live_bytes.peak_live_bytes) == (3, 5 * MIB)
    assert placement.alive_at_peak.tolist() == [1, 0, 2]


def test_live_bytes_agree_with_a_count_tick_by_tick() -> None:
    random = np.random.default_rng(1)
    starts = random.integers(0, 50, 40)
    ends, sizes = starts + random.integers(1, 30, 40), random.integers(0, 1000, 40)
    live = LiveBytes.of(sizes, starts, ends)
    for tick in range(90):
        expected = sizes[(starts <= tick) & (tick < ends)].sum()
        at = np.searchsorted(live.ticks, tick, side="right") - 1
        assert (live.live_bytes[at] if at >= 0 else 0) == expected
    assert live.peak_live_bytes == live.live_bytes.max()


def test_addresses_far_apart_are_shown_close_together_and_in_order() -> None:
    trace = Trace.from_arrays([100, 200, 300], [0, 1, 2], [5, 5, 5])
    placement = Placement.of_addresses(trace, [0x7F0000000000, 0x1000, 0x1000 + 200], title="glibc")
    assert placement.offsets.tolist() == [500 + MAX_GAP_BYTES, 0, 200]
    assert placement.extent_bytes == 600 + MAX_GAP_BYTES
    assert placement.lower_bound_bytes is None


def test_addresses_that_are_used_again_overlap_as_they_did() -> None:
    trace = Trace.from_arrays([100, 100, 50], [0, 2, 4], [1, 3, 5])
    assert Placement.of_addresses(trace, [4096, 4096, 4100]).offsets.tolist() == [0, 0, 4]


def test_another_number_of_addresses_is_refused() -> None:
    with pytest.raises(InvalidPlanError, match="2 addresses for 5 buffers"):
        Placement.of_addresses(small_trace(), [1, 2])


def test_nothing_can_be_placed() -> None:
    placement = Placement.of_addresses(Trace.from_arrays([], [], []), [])
    assert (placement.extent_bytes, placement.live_bytes.peak_live_bytes) == (0, 0)
