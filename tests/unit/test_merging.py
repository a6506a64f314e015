"""merge(): aligned by origin, the largest size, the union of the lifetimes."""

from __future__ import annotations

import pytest

import memomalloc
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.trace import Trace
from memomalloc.errors import InvalidProblemError
from memomalloc.planners.merging import in_slots, is_told_by_size, merge


def _origin(name: str, line: int = 1) -> Origin:
    return Origin((f"aten::{name}",), "layer", SourceLine("model.py", line, "forward"))


def _trace(*buffers: tuple[str, int, int, int], escapes: tuple[int, ...] = ()) -> Trace:
    """Buffers as (operator, size, start, end)."""
    names, sizes, starts, ends = zip(*buffers, strict=True) if buffers else ((), (), (), ())
    return Trace.from_arrays(
        sizes, starts, ends, [i in escapes for i in range(len(buffers))], origins=[_origin(name) for name in names]
    )


def _operators(trace: Trace) -> list[str]:
    return [origin.operator.removeprefix("aten::") for origin in trace.origins if origin is not None]


def test_sizes_become_the_largest_and_remember_the_smallest() -> None:
    merged = merge([_trace(("a", 10, 0, 2), ("b", 70, 1, 3)), _trace(("a", 30, 0, 2), ("b", 20, 1, 3))])
    assert merged.sizes.tolist() == [30, 70]
    assert merged.smallest_sizes.tolist() == [10, 20]


def test_a_branch_keeps_its_place_in_the_order() -> None:
    long = _trace(("a", 1, 0, 1), ("b", 2, 2, 3), ("c", 3, 4, 5))
    short = _trace(("a", 1, 0, 1), ("c", 3, 2, 3))
    for traces in ([long, short], [short, long], [short, long, short]):
        assert _operators(merge(traces)) == ["a", "b", "c"]


def test_a_lifetime_is_the_longest_of_all() -> None:
    one = _trace(("a", 1, 0, 1), ("b", 1, 2, 3), ("c", 1, 4, 5))
    other = _trace(("a", 1, 0, 3), ("b", 1, 1, 4), ("c", 1, 2, 5))
    merged = merge([one, other])
    # Ticks count allocations: what is freed after the allocation of c lives until the end.
    assert merged.starts.tolist() == [0, 1, 2]
    assert merged.ends.tolist() == [3, 3, 3]
    assert merge([one, one]).ends.tolist() == [1, 2, 3]


def test_a_buffer_that_outlives_a_branch_not_taken_keeps_clear_of_it() -> None:
    taken = _trace(("a", 64, 0, 1), ("branch", 64, 2, 3), ("c", 64, 4, 5))
    not_taken = _trace(("a", 64, 0, 3), ("c", 64, 1, 2))
    merged = merge([taken, not_taken])
    plan = memomalloc.plan(merged)
    memomalloc.plan(merged)
    a, branch, c = (int(offset) for offset in plan.offsets)
    assert a != branch
    assert a != c


def test_what_escapes_once_escapes() -> None:
    merged = merge([_trace(("a", 1, 0, 1)), _trace(("a", 1, 0, 1), escapes=(0,))])
    assert merged.escapes.tolist() == [True]
    assert merged.origins[0] is not None
    assert merged.origins[0].role == "escape"


def test_origins_stay_unique() -> None:
    merged = merge([_trace(("a", 1, 0, 1), ("a", 2, 2, 3)), _trace(("a", 1, 0, 1))])
    assert len(set(merged.origins)) == len(merged) == 2


def test_calls_from_other_lines_of_the_program_are_aligned_all_the_same() -> None:
    one = _trace(("a", 1, 0, 1), ("b", 2, 2, 3))
    moved = Trace.from_arrays(one.sizes, one.starts, one.ends, origins=[_origin("a", 50), _origin("b", 51)])
    assert len(merge([one, moved])) == 2


def test_traces_without_origins_are_aligned_in_order() -> None:
    merged = merge([Trace.from_arrays([1, 2], [0, 1], [2, 3]), Trace.from_arrays([5], [0], [1])])
    assert len(merged) == 2
    assert merged.origins == (None, None)


def test_merging_a_merged_trace_again_adds_nothing() -> None:
    one = _trace(("a", 1, 0, 1), ("b", 2, 2, 3))
    other = _trace(("b", 5, 0, 1), ("c", 6, 2, 3))
    merged = merge([one, other])
    again = merge([merged, other])
    assert again.sizes.tolist() == merged.sizes.tolist()
    assert again.ends.tolist() == merged.ends.tolist() == in_slots(merged).ends.tolist()


def test_one_trace_is_itself_and_none_is_an_error() -> None:
    trace = _trace(("a", 1, 0, 1))
    assert merge([trace]) is trace
    with pytest.raises(InvalidProblemError, match="at least one trace"):
        merge([])


def test_empty_traces() -> None:
    assert len(merge([_trace(), _trace()])) == 0
    assert _operators(merge([_trace(), _trace(("a", 1, 0, 1))])) == ["a"]


@pytest.mark.parametrize(("branch", "is_told"), [(256, True), (192, True), (100, False), (64, True)])
def test_sizes_tell_a_branch_apart_where_they_differ(branch: int, is_told: bool) -> None:
    taken = _trace(("a", 512, 0, 1), ("branch", branch, 2, 3), ("c", 512, 4, 5))
    not_taken = _trace(("a", 90, 0, 1), ("c", 90, 2, 3))
    merged = merge([taken, not_taken])
    assert is_told_by_size(taken, merged, 64)
    assert is_told_by_size(not_taken, merged, 64) is is_told
    assert not is_told_by_size(_trace(("a", 1024, 0, 1)), merged, 64)
