from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memomalloc.data import Problem
from memomalloc.errors import InvalidProblemError


def test_sizes_are_rounded_up_and_arrays_are_read_only() -> None:
    problem = Problem.from_arrays([1, 64, 65], [0, 0, 0], [1, 1, 1])
    assert problem.sizes.tolist() == [64, 64, 128]
    assert problem.num_buffers == len(problem) == 3
    for column in (problem.sizes, problem.starts, problem.ends):
        assert column.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_the_arrays_of_the_caller_are_copied() -> None:
    sizes = np.array([64, 64])
    problem = Problem.from_arrays(sizes, [0, 0], [1, 1])
    sizes[0] = 0
    assert problem.sizes[0] == 64
    assert sizes.flags.writeable


def test_lower_bound_counts_half_open_lifetimes() -> None:
    problem = Problem.from_arrays([3, 4, 5], [0, 2, 1], [2, 4, 3], alignment_bytes=1)
    assert problem.lower_bound_bytes == 9


def test_lower_bound_by_definition() -> None:
    random = np.random.default_rng(0)
    starts = random.integers(-50, 50, 200)
    ends = starts + random.integers(1, 30, 200)
    sizes = random.integers(0, 100, 200)
    problem = Problem.from_arrays(sizes, starts, ends, alignment_bytes=1)
    expected = max(sizes[(starts <= tick) & (tick < ends)].sum() for tick in range(-50, 90))
    assert problem.lower_bound_bytes == expected


@pytest.mark.parametrize(
    ("sizes", "starts", "ends", "message"),
    [
        ([1, -1], [0, 0], [1, 1], r"buffer 1: size -1 must not be negative"),
        ([1, 1, 1], [0, 5, 9], [1, 5, 8], r"buffer 1: its lifetime \[5, 5\) is empty"),
        ([1.0, 2.0], [0, 0], [1, 1], r"sizes\[0\] = .*1\.0.* is not a whole number"),
        ([1, float("nan")], [0, 0], [1, 1], r"sizes\[0\].*not a whole number"),
        ([True], [0], [1], "not a whole number"),
        (["1"], [0], [1], "not a whole number"),
        ([None], [0], [1], "not a whole number"),
        ([2**63], [0], [1], r"sizes\[0\] = 9223372036854775808 does not fit"),
        ([2**70], [0], [1], r"sizes\[0\] = 1180591620717411303424 does not fit"),
        ([1], [-(2**64)], [1], r"starts\[0\]"),
        ([2**63 - 1], [0], [1], "buffer 0: size .* rounded up"),
        ([2**62, 2**62], [0, 5], [1, 6], "sum to more"),
        ([2**61] * 8, [0] * 8, [1] * 8, "sum to more"),
        ([1, 2], [0], [1, 1], "starts has 1 entries, sizes has 2"),
        ([1], [0], [1, 2], "ends has 2 entries"),
        ([[1]], [0], [1], "one-dimensional"),
        ([[1], [1, 2]], [0, 0], [1, 1], "one-dimensional|whole"),
        (5, [0], [1], "one-dimensional"),
    ],
)
def test_what_is_refused(sizes: object, starts: object, ends: object, message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        Problem.from_arrays(sizes, starts, ends)  # type: ignore[arg-type]


@pytest.mark.parametrize("alignment", [0, -1, 1.5, True, 2**40, "64"])
def test_alignments_that_are_refused(alignment: object) -> None:
    with pytest.raises(InvalidProblemError, match="alignment_bytes"):
        Problem.from_arrays([1], [0], [1], alignment_bytes=alignment)  # type: ignore[arg-type]


def test_alignments_per_buffer_are_combined_with_the_common_one() -> None:
    problem = Problem.from_arrays([1, 1], [0, 0], [1, 1], alignment_bytes=4, alignments=[6, 1])
    assert problem.alignments is not None
    assert problem.alignments.tolist() == [12, 4]
    assert Problem.from_arrays([1], [0], [1], alignment_bytes=4, alignments=[2]).alignments is None
    with pytest.raises(InvalidProblemError, match="buffer 1: alignment 0"):
        Problem.from_arrays([1, 1], [0, 0], [1, 1], alignments=[1, 0])


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ([-2, -1], "buffer 0: pinned offset -2"),
        ([-1, 3], "buffer 1: pinned offset 3 is not a multiple"),
        ([0, 32], "not a multiple"),
        ([0, 0], "buffer 0 and buffer 1 are pinned to the same bytes"),
        ([0, 2**63 - 64], "leaves no room"),
        ([0], "pinned_offsets has 1 entries"),
    ],
)
def test_pins_that_are_refused(pins: list[int], message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        Problem.from_arrays([128, 128], [0, 0], [1, 1], pinned_offsets=pins)


def test_all_pins_free_is_no_pins() -> None:
    assert Problem.from_arrays([1], [0], [1], pinned_offsets=[-1]).pinned_offsets is None


def test_messages_use_the_ids() -> None:
    with pytest.raises(InvalidProblemError, match=r"buffer 1 \(id conv\)"):
        Problem.from_arrays([1, -1], [0, 0], [1, 1], ids=["input", "conv"])
    with pytest.raises(InvalidProblemError, match="ids has 1 entries"):
        Problem.from_arrays([1, 1], [0, 0], [1, 1], ids=["input"])


@pytest.mark.parametrize("capacity", [-1, 2**63, True])
def test_capacities_that_are_refused(capacity: int) -> None:
    with pytest.raises(InvalidProblemError, match="capacity_bytes"):
        Problem.from_arrays([1], [0], [1], capacity_bytes=capacity)


def test_any_integer_type_is_taken() -> None:
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        assert Problem.from_arrays(np.array([3], dtype=dtype), [0], [1]).sizes.tolist() == [64]
    assert Problem.from_arrays([2**62 // 4], [-(2**63)], [2**63 - 1]).lower_bound_bytes == 2**60


def test_lower_bound_counts_pins() -> None:
    problem = Problem.from_arrays([1, 1], [0, 0], [1, 1], alignment_bytes=1, pinned_offsets=[100, -1])
    assert problem.lower_bound_bytes == 101
    nothing = Problem.from_arrays([1, 0], [0, 0], [1, 1], alignment_bytes=1, pinned_offsets=[-1, 100])
    assert nothing.lower_bound_bytes == 1


@pytest.mark.parametrize("capacity", [1.5, "10"])
def test_capacities_that_are_no_numbers(capacity: Any) -> None:
    with pytest.raises(InvalidProblemError, match=r"capacity_bytes = .* must be a whole number"):
        Problem.from_arrays([1], [0], [1], capacity_bytes=capacity)


def test_the_sum_says_where_it_exceeds() -> None:
    with pytest.raises(InvalidProblemError, match=r"up to buffer 1 \(id b\) the sizes sum to more"):
        Problem.from_arrays([2**60, 2**61, 64], [0] * 3, [1] * 3, ids=["a", "b", "c"])
