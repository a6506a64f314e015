from __future__ import annotations

import numpy as np
import pytest

from memomalloc.data import Problem, check
from memomalloc.errors import InvalidPlanError
from memomalloc.planners import plan

PROBLEM = Problem.from_arrays([64, 128, 64], [0, 2, 4], [4, 6, 8])


def test_valid_offsets_pass() -> None:
    check(PROBLEM, [0, 64, 0])
    check(PROBLEM, np.array([128, 0, 128]))
    check(plan(PROBLEM))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 0, 192], r"two live buffers share bytes: buffer 0 .* and buffer 1"),
        ([128, 64, 0], "buffer 0 .* and buffer 1|buffer 1 .* and buffer 0"),
        ([0, 64, 128], "buffer 1 .* and buffer 2"),
        ([0, 64, 64], "buffer 1 .* and buffer 2"),
        ([-64, 64, 0], "buffer 0: offset -64 is out of range"),
        ([0, 2**63 - 64, 0], "buffer 1: offset .* is out of range"),
        ([0, 65, 0], "buffer 1: offset 65 is not a multiple"),
        ([0, 64], "2 offsets for 3 buffers"),
        ([0.0, 64.0, 0.0], "not a whole number"),
        ([0, 2**64, 0], "does not fit into 64 bits"),
    ],
)
def test_invalid_offsets_are_refused(offsets: list[int], message: str) -> None:
    with pytest.raises(InvalidPlanError, match=message):
        check(PROBLEM, offsets)


def test_pins_and_alignments_are_checked() -> None:
    problem = Problem.from_arrays([8, 8], [0, 0], [1, 1], alignment_bytes=1, alignments=[1, 16], pinned_offsets=[8, -1])
    check(problem, [8, 16])
    with pytest.raises(InvalidPlanError, match="pinned to 8"):
        check(problem, [0, 16])
    with pytest.raises(InvalidPlanError, match="buffer 1: offset 24"):
        check(problem, [8, 24])


def test_a_problem_alone_has_nothing_to_check() -> None:
    with pytest.raises(InvalidPlanError, match="no offsets"):
        check(PROBLEM)


def test_agrees_with_comparing_all_pairs() -> None:
    random = np.random.default_rng(0)
    num_overlapping = 0
    for _ in range(500):
        n = int(random.integers(1, 12))
        starts = random.integers(0, 10, n)
        ends = starts + random.integers(1, 5, n)
        sizes = random.integers(0, 5, n)
        offsets = random.integers(0, 30, n)
        problem = Problem.from_arrays(sizes, starts, ends, alignment_bytes=1)
        expected = any(
            starts[i] < ends[j]
            and starts[j] < ends[i]
            and offsets[i] < offsets[j] + sizes[j]
            and offsets[j] < offsets[i] + sizes[i]
            and sizes[i] > 0
            and sizes[j] > 0
            for i in range(n)
            for j in range(i)
        )
        num_overlapping += expected
        if expected:
            with pytest.raises(InvalidPlanError):
                check(problem, offsets)
        else:
            check(problem, offsets)
    assert 100 < num_overlapping < 400
