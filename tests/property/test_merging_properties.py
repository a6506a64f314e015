"""A merged trace covers each of its traces: in order, in size, and in which buffers live together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import memomalloc
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.planners.merging import merge


@st.composite
def _traces(draw: st.DrawFn) -> Trace:
    """A run of a program: operators in any order, each buffer freed at any time after its allocation."""
    names = draw(st.lists(st.sampled_from("abcd"), max_size=12))
    frees = [draw(st.integers(0, len(names) - i)) for i in range(len(names))]
    events = sorted(
        [(2 * i, 0, i) for i in range(len(names))] + [(2 * (i + free) + 1, 1, i) for i, free in enumerate(frees)]
    )
    starts, ends = [0] * len(names), [0] * len(names)
    for tick, (_, is_free, buffer) in enumerate(events):
        (ends if is_free else starts)[buffer] = tick
    seen: dict[str, int] = {}
    origins = []
    for name in names:
        origins.append(Origin((name,), occurrence=seen.setdefault(name, 0)))
        seen[name] += 1
    sizes = [draw(st.integers(1, 500)) for _ in names]
    escapes = [draw(st.booleans()) and draw(st.booleans()) for _ in names]
    return Trace.from_arrays(sizes, starts, ends, escapes, end_tick=len(events), origins=origins)


def _embed(trace: Trace, merged: Trace) -> list[int]:
    """The slots of a trace's buffers in the merged trace, in order, each of the same operator and large enough."""

    def fits(buffer: int, slot: int) -> bool:
        same = trace.origins[buffer].operators == merged.origins[slot].operators
        within = merged.smallest_sizes[slot] <= trace.sizes[buffer] <= merged.sizes[slot]
        return bool(same and within and merged.escapes[slot] >= trace.escapes[buffer])

    def conflicts(buffer: int, slot: int, other: int, other_slot: int) -> bool:
        together = trace.starts[buffer] < trace.ends[other]  # other is the earlier one
        return bool(together and not merged.starts[slot] < merged.ends[other_slot])

    def search(slots: list[int]) -> list[int] | None:
        buffer = len(slots)
        if buffer == len(trace):
            return slots
        for slot in range(slots[-1] + 1 if slots else 0, len(merged)):
            if fits(buffer, slot) and not any(conflicts(buffer, slot, other, slots[other]) for other in range(buffer)):
                found = search([*slots, slot])
                if found is not None:
                    return found
        return None

    slots = search([])
    assert slots is not None, "the merged trace does not cover this trace"
    return slots


@settings(max_examples=150, deadline=None)
@given(st.lists(_traces(), min_size=1, max_size=4))
def test_each_trace_fits_into_the_merged_one(traces: list[Trace]) -> None:
    merged = merge(traces)
    for trace in traces:
        _embed(trace, merged)
    if len(traces) > 1:
        assert len(set(merged.origins)) == len(merged)


@settings(max_examples=100, deadline=None)
@given(st.lists(_traces(), min_size=2, max_size=4))
def test_merging_what_is_known_changes_no_size(traces: list[Trace]) -> None:
    merged = merge(traces)
    again = merge([merged, merged])
    assert again.sizes.tolist() == merged.sizes.tolist()
    assert again.smallest_sizes.tolist() == merged.smallest_sizes.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(_traces(), min_size=2, max_size=3))
def test_the_plan_of_a_merged_trace_is_a_plan(traces: list[Trace]) -> None:
    plan = memomalloc.plan(merge(traces), planner="greedy_by_size")
    assert plan.arena_bytes >= plan.lower_bound_bytes
