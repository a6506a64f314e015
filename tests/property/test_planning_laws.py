"""Laws that hold for any problem."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memomalloc.data import Plan, Problem, check
from memomalloc.planners import plan

QUICK = ("skyline", "greedy_by_size", "greedy_by_breadth_best_fit", "linear_scan", "gergov", "min_cost_flow", "bump")

Buffer = tuple[int, int, int]  # size, start, width

buffers = st.lists(st.tuples(st.integers(0, 40), st.integers(-20, 20), st.integers(1, 15)), max_size=12)
small_buffers = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=6)
planners = st.sampled_from(("auto", *QUICK))


def problem_of(rows: list[Buffer], **extra: Any) -> Problem:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Problem.from_arrays(columns[:, 0], columns[:, 1], columns[:, 1] + columns[:, 2], alignment_bytes=1, **extra)


def plan_of(rows: list[Buffer], planner: str) -> Plan:
    return plan(problem_of(rows), planner=planner, time_limit_s=10)


def smallest_arena(rows: list[Buffer]) -> int:
    """By stacking the buffers in every order, each on all earlier ones that it is alive with."""
    best = sum(size for size, _, _ in rows)
    for order in itertools.permutations(rows):
        tops: list[tuple[int, int, int]] = []
        for size, start, width in order:
            floor = max((top for top, begin, end in tops if begin < start + width and start < end), default=0)
            tops.append((floor + size, start, start + width))
        best = min(best, max(top for top, _, _ in tops))
    return best


@given(buffers, planners)
def test_every_plan_is_valid_and_not_below_the_bound(rows: list[Buffer], planner: str) -> None:
    problem = problem_of(rows)
    planned = plan(problem, planner=planner, time_limit_s=10)
    check(problem, planned.offsets)
    assert planned.arena_bytes >= problem.lower_bound_bytes


@given(buffers, planners, st.randoms())
def test_the_order_of_buffers_does_not_matter(rows: list[Buffer], planner: str, random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert plan_of(rows, planner).arena_bytes == plan_of(shuffled, planner).arena_bytes


@given(buffers, planners, st.integers(1, 1000))
def test_scaling_all_sizes_scales_the_arena(rows: list[Buffer], planner: str, factor: int) -> None:
    scaled = [(size * factor, start, width) for size, start, width in rows]
    assert plan_of(scaled, planner).arena_bytes == factor * plan_of(rows, planner).arena_bytes


@given(buffers, planners, st.integers(1, 1000), st.integers(-(10**12), 10**12))
def test_scaling_and_moving_time_changes_nothing(rows: list[Buffer], planner: str, factor: int, shift: int) -> None:
    scaled = [(size, start * factor + shift, width * factor) for size, start, width in rows]
    assert plan_of(scaled, planner).arena_bytes == plan_of(rows, planner).arena_bytes


@given(buffers, st.tuples(st.integers(0, 40), st.integers(-20, 20), st.integers(1, 15)))
def test_adding_a_buffer_never_lowers_the_bound(rows: list[Buffer], added: Buffer) -> None:
    assert problem_of([*rows, added]).lower_bound_bytes >= problem_of(rows).lower_bound_bytes


@given(buffers)
def test_auto_is_never_worse_than_greedy_by_size(rows: list[Buffer]) -> None:
    assert plan_of(rows, "auto").arena_bytes <= plan_of(rows, "greedy_by_size").arena_bytes


@given(buffers)
def test_auto_and_branch_and_bound_agree(rows: list[Buffer]) -> None:
    plans = [plan_of(rows, planner) for planner in ("auto", "branch_and_bound")]
    assert all(planned.proven_optimal for planned in plans)
    assert plans[0].arena_bytes == plans[1].arena_bytes


@settings(max_examples=60)
@given(small_buffers)
def test_branch_and_bound_agrees_with_trying_everything(rows: list[Buffer]) -> None:
    planned = plan_of(rows, "branch_and_bound")
    assert planned.proven_optimal
    assert planned.arena_bytes == smallest_arena(rows)


@pytest.mark.parametrize(("solver", "module"), [("cp_sat", "ortools"), ("mip", "scipy")])
def test_the_solvers_agree_with_branch_and_bound(solver: str, module: str) -> None:
    pytest.importorskip(module)
    random = np.random.default_rng(0)
    for _ in range(60):
        n = int(random.integers(1, 9))
        rows = list(
            zip(
                random.integers(1, 9, n).tolist(),
                random.integers(0, 8, n).tolist(),
                random.integers(1, 5, n).tolist(),
                strict=True,
            )
        )
        exact = plan_of(rows, "branch_and_bound")
        other = plan_of(rows, solver)
        assert (other.arena_bytes, other.proven_optimal) == (exact.arena_bytes, True)
