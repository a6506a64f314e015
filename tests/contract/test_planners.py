"""What every planner must do, written once. A new planner gets these tests by its line in the registry."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.data import Plan, Problem, check
from memomalloc.errors import CapacityError
from memomalloc.planners import available, plan

SOLVER_MODULES = {"mip": "scipy", "cp_sat": "ortools"}
SMALL_TIME_LIMIT_S = 0.5


def planner_parameters() -> list[object]:
    parameters = []
    for planner in available():
        module = SOLVER_MODULES.get(planner.name)
        missing = module is not None and importlib.util.find_spec(module) is None
        marks = [pytest.mark.skip(reason=f"{module} is not installed")] if missing else []
        parameters.append(pytest.param(planner.name, marks=marks))
    return parameters


@pytest.fixture(params=planner_parameters())
def planner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_problem(seed: int, num_buffers: int = 12, **extra: object) -> Problem:
    random = np.random.default_rng(seed)
    starts = random.integers(0, 12, num_buffers)
    ends = starts + 1 + random.integers(0, 8, num_buffers)
    sizes = random.integers(1, 20, num_buffers)
    return Problem.from_arrays(sizes, starts, ends, alignment_bytes=1, **extra)  # type: ignore[arg-type]


def plan_quickly(problem: Problem, planner: str, **extra: object) -> Plan:
    return plan(problem, planner=planner, time_limit_s=SMALL_TIME_LIMIT_S, **extra)  # type: ignore[arg-type]


def test_empty_problem(planner: str) -> None:
    planned = plan_quickly(Problem.from_arrays([], [], []), planner)
    assert (planned.arena_bytes, planned.lower_bound_bytes, len(planned.offsets)) == (0, 0, 0)
    assert planned.proven_optimal
    assert planned.gap == 0.0


def test_one_buffer(planner: str) -> None:
    planned = plan_quickly(Problem.from_arrays([100], [3], [4]), planner)
    assert planned.offsets.tolist() == [0]
    assert planned.arena_bytes == 128
    assert planned.proven_optimal


def test_buffers_without_bytes(planner: str) -> None:
    planned = plan_quickly(Problem.from_arrays([0, 64, 0], [0, 0, 0], [9, 9, 9]), planner)
    assert planned.arena_bytes == 64
    assert planned.offsets[0] == planned.offsets[2] == 0


def test_only_buffers_without_bytes(planner: str) -> None:
    assert plan_quickly(Problem.from_arrays([0, 0], [0, 0], [1, 2]), planner).arena_bytes == 0


def test_all_alive_at_once(planner: str) -> None:
    planned = plan_quickly(Problem.from_arrays([64, 128, 192], [0, 1, 2], [9, 9, 9]), planner)
    assert planned.arena_bytes == planned.lower_bound_bytes == 384
    assert planned.proven_optimal


def test_one_after_the_other(planner: str) -> None:
    planned = plan_quickly(Problem.from_arrays([64, 64, 64], [0, 1, 2], [1, 2, 3]), planner)
    # Lifetimes are half-open: only a planner that reuses nothing needs more than one place.
    assert planned.arena_bytes == (192 if planner == "bump" else 64)


@pytest.mark.parametrize("seed", range(5))
def test_plans_are_valid_and_within_bounds(planner: str, seed: int) -> None:
    problem = random_problem(seed)
    planned = plan_quickly(problem, planner)
    check(problem, planned.offsets)
    check(planned)
    assert planned.arena_bytes == max(planned.offsets + planned.sizes)
    assert problem.lower_bound_bytes <= planned.arena_bytes <= problem.sizes.sum()
    assert planned.lower_bound_bytes == problem.lower_bound_bytes
    if planned.arena_bytes == planned.lower_bound_bytes:
        assert planned.proven_optimal


@pytest.mark.parametrize("seed", range(3))
def test_alignment_per_buffer(planner: str, seed: int) -> None:
    alignments = np.random.default_rng(seed).choice([1, 2, 4, 8, 3], 12)
    problem = random_problem(seed, alignments=alignments)
    planned = plan_quickly(problem, planner)
    check(problem, planned.offsets)
    assert (planned.offsets % alignments == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_pins(planner: str, seed: int) -> None:
    unpinned = random_problem(seed)
    pins = plan(unpinned, planner="skyline").offsets.copy()
    pins[np.random.default_rng(seed).random(len(pins)) < 0.6] = -1
    pins[0] = 37 + unpinned.sizes.sum()  # alone far above
    problem = random_problem(seed, pinned_offsets=pins)
    planned = plan_quickly(problem, planner)
    check(problem, planned.offsets)
    assert (planned.offsets[pins >= 0] == pins[pins >= 0]).all()
    assert planned.arena_bytes >= pins[0] + unpinned.sizes[0]


def test_pins_and_alignments_together(planner: str) -> None:
    problem = Problem.from_arrays(
        [8, 8, 5, 7], [0, 0, 0, 1], [4, 2, 3, 5],
        alignment_bytes=1, alignments=[1, 4, 8, 2], pinned_offsets=[5, -1, -1, -1],
    )  # fmt: skip
    check(problem, plan_quickly(problem, planner).offsets)


def test_capacity_that_is_enough(planner: str) -> None:
    problem = random_problem(1)
    capacity = int(problem.sizes.sum())
    assert plan_quickly(problem, planner, capacity_bytes=capacity).arena_bytes <= capacity


def test_capacity_below_the_lower_bound_is_proven_too_small(planner: str) -> None:
    problem = random_problem(1)
    with pytest.raises(CapacityError, match="no plan exists") as caught:
        plan_quickly(problem, planner, capacity_bytes=problem.lower_bound_bytes - 1)
    assert caught.value.proven


def test_capacity_of_the_problem(planner: str) -> None:
    with pytest.raises(CapacityError):
        plan_quickly(random_problem(1, capacity_bytes=1), planner)


def test_equal_seeds_give_equal_plans(planner: str) -> None:
    problem = random_problem(7, 10)
    first, second = (plan_quickly(problem, planner, seed=5) for _ in range(2))
    assert first.arena_bytes == second.arena_bytes
    if planner not in SOLVER_MODULES:
        assert (first.offsets == second.offsets).all()


@pytest.mark.parametrize("seed", range(3))
def test_order_of_buffers_does_not_matter(planner: str, seed: int) -> None:
    problem = random_problem(seed)
    order = np.random.default_rng(seed).permutation(len(problem))
    shuffled = Problem.from_arrays(problem.sizes[order], problem.starts[order], problem.ends[order], alignment_bytes=1)
    assert plan_quickly(problem, planner).arena_bytes == plan_quickly(shuffled, planner).arena_bytes


@pytest.mark.parametrize("seed", range(3))
def test_scaling_sizes_scales_the_arena_and_scaling_time_changes_nothing(planner: str, seed: int) -> None:
    problem = random_problem(seed)
    arena = plan_quickly(problem, planner).arena_bytes
    larger = Problem.from_arrays(problem.sizes * 48, problem.starts, problem.ends, alignment_bytes=1)
    assert plan_quickly(larger, planner).arena_bytes == 48 * arena
    slower = Problem.from_arrays(
        problem.sizes, problem.starts * 1000 - 10**15, problem.ends * 1000 - 10**15, alignment_bytes=1
    )
    assert plan_quickly(slower, planner).arena_bytes == arena


def test_huge_sizes(planner: str) -> None:
    size = 2**58
    planned = plan_quickly(Problem.from_arrays([size, size, size], [0, 1, 2], [2, 3, 4]), planner)
    assert planned.lower_bound_bytes == 2 * size
    assert planned.arena_bytes in (2 * size, 3 * size)


def test_deeply_nested_lifetimes(planner: str) -> None:
    n = 40 if planner in SOLVER_MODULES else 400
    ticks = np.arange(n)
    problem = Problem.from_arrays(64 * (1 + ticks % 7), ticks, 2 * n - ticks)
    planned = plan_quickly(problem, planner)
    assert planned.arena_bytes == problem.lower_bound_bytes


def test_exact_planners_prove_and_find_the_optimum(planner: str) -> None:
    if not {entry.name: entry for entry in available()}[planner].exact:
        pytest.skip("a heuristic")
    # The lower bound 18 cannot be reached.
    sizes = [1, 4, 3, 2, 2, 8, 1, 6, 3, 6, 5]
    starts = [3, 4, 1, 3, 1, 5, 0, 0, 3, 1, 7]
    ends = [6, 10, 4, 4, 6, 10, 6, 5, 5, 2, 12]
    problem = Problem.from_arrays(sizes, starts, ends, alignment_bytes=1)
    planned = plan(problem, planner=planner, time_limit_s=20)
    assert (planned.arena_bytes, planned.lower_bound_bytes, planned.proven_optimal) == (19, 18, True)


def test_cut_rectangle(planner: str) -> None:
    problem = cut_rectangle(25, seed=3)
    planned = plan_quickly(problem, planner)
    check(problem, planned.offsets)


def test_several_threads_plan_at_once(planner: str) -> None:
    problems = [random_problem(seed, 10) for seed in range(4)]
    expected = [plan_quickly(problem, planner).arena_bytes for problem in problems]
    found = [0] * len(problems)

    def work(index: int) -> None:
        found[index] = plan_quickly(problems[index], planner).arena_bytes

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
