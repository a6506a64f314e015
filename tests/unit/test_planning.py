from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.data import Problem, Trace, check
from memomalloc.errors import CapacityError, InvalidProblemError, PlanningMemoryError, UnknownPlannerError
from memomalloc.planners import Progress, available, plan


@pytest.fixture(scope="module")
def open_problem() -> Problem:
    """A problem that keeps every search busy for longer than a test takes."""
    random = np.random.default_rng(1)
    starts = random.integers(0, 2000, 1500)
    return Problem.from_arrays(
        random.integers(1, 10**9, 1500), starts, starts + random.integers(1, 400, 1500), alignment_bytes=1
    )


def test_unknown_planner_lists_those_there_are() -> None:
    with pytest.raises(UnknownPlannerError, match="there is no planner 'magic'; there are: auto, skyline"):
        plan(Problem.from_arrays([], [], []), planner="magic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit_s": -1}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"capacity_bytes": -1}, "capacity_bytes"),
        ({"capacity_bytes": 2**63}, "capacity_bytes"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        plan(Problem.from_arrays([1], [0], [1]), **arguments)  # type: ignore[arg-type]


def test_more_buffers_than_a_planner_takes() -> None:
    n = 1501
    problem = Problem.from_arrays(np.ones(n, dtype=int), np.arange(n), np.arange(n) + 1)
    with pytest.raises(InvalidProblemError, match="min_cost_flow takes at most 1500 buffers, the problem has 1501"):
        plan(problem, planner="min_cost_flow")


def test_the_time_limit_holds(open_problem: Problem) -> None:
    for planner in ("auto", "branch_and_bound", "skyline_restarts"):
        start_s = time.perf_counter()
        plan(open_problem, planner=planner, time_limit_s=0.2)
        assert time.perf_counter() - start_s < 2


def test_no_time_is_enough_for_a_plan(open_problem: Problem) -> None:
    assert plan(open_problem, time_limit_s=0).arena_bytes >= open_problem.lower_bound_bytes


def test_progress_is_told_and_can_end_the_search(open_problem: Problem) -> None:
    told: list[Progress] = []

    def progress(state: Progress) -> bool:
        told.append(state)
        return len(told) < 3

    start_s = time.perf_counter()
    planned = plan(open_problem, time_limit_s=60, progress=progress)
    assert time.perf_counter() - start_s < 30
    assert len(told) == 3
    assert told[-1].best_arena_bytes is not None
    assert told[-1].best_arena_bytes >= planned.lower_bound_bytes == told[0].lower_bound_bytes
    assert 0 < told[0].elapsed_s < told[2].elapsed_s


def test_progress_without_a_result_goes_on(open_problem: Problem) -> None:
    plan(open_problem, time_limit_s=0.2, progress=lambda state: None)


def test_an_exception_in_progress_is_raised(open_problem: Problem) -> None:
    def progress(_: Progress) -> None:
        raise ValueError("from the callback")

    with pytest.raises(ValueError, match="from the callback"):
        plan(open_problem, time_limit_s=60, progress=progress)


def test_an_unproven_lack_of_a_plan_says_so(open_problem: Problem) -> None:
    with pytest.raises(CapacityError, match="no plan was found in time") as caught:
        plan(open_problem, planner="bump", capacity_bytes=open_problem.lower_bound_bytes)
    assert not caught.value.proven


def test_searches_reach_the_known_optimum() -> None:
    problem = cut_rectangle(150, seed=4)
    assert plan(problem, time_limit_s=20).arena_bytes == problem.lower_bound_bytes == 1024 * 1024


def test_adding_a_buffer_never_lowers_the_bound_or_the_optimum() -> None:
    problem = cut_rectangle(12, seed=2, capacity=16, num_ticks=16)
    last = 0
    for count in range(1, 13):
        part = Problem.from_arrays(
            problem.sizes[:count], problem.starts[:count], problem.ends[:count], alignment_bytes=1
        )
        planned = plan(part, time_limit_s=20)
        assert planned.proven_optimal
        assert planned.arena_bytes >= last
        last = planned.arena_bytes


def test_a_trace_is_planned_with_the_alignment_of_torch() -> None:
    planned = plan(Trace.from_arrays([1, 100], [0, 1], [9, 9]))
    assert planned.alignment_bytes == 64
    assert planned.sizes.tolist() == [64, 128]


def test_the_registry_and_the_extension_know_the_same_planners() -> None:
    from memomalloc import _planner

    native = {entry.name for entry in available()} - {"mip", "cp_sat"}
    assert native == set(_planner.planner_names())
    for entry in available():
        assert entry.description.endswith(".")
        assert entry.complexity
        assert entry.source


def test_the_lower_bound_knows_alignments() -> None:
    problem = Problem.from_arrays([64, 64, 64], [0, 0, 0], [1, 1, 1], alignment_bytes=1, alignments=[4096, 4096, 1])
    assert problem.lower_bound_bytes == 4096 + 64
    planned = plan(problem)
    assert planned.arena_bytes == planned.lower_bound_bytes == 4096 + 64
    assert planned.proven_optimal
    with pytest.raises(CapacityError, match="no plan exists within 4159 bytes") as caught:
        plan(problem, capacity_bytes=4096 + 63)
    assert caught.value.proven


def test_mixed_alignments_and_pins_of_any_size_keep_the_time_limit() -> None:
    # The floors of a search over these creep towards a gigabyte by a few bytes at a time.
    rows = [
        (-47, -31, 100, 64, -1), (-76, 17, 100, 1 << 20, -1), (-1, 75, 100, 1, -1), (10, 75, 100, 1, -1),
        (55, 131, 4096, 1, -1), (-100, -14, 855876988, 1, -1), (78, 80, 4255, 1, -1), (4, 7, 320, 64, 1 << 31),
        (3, 6, 1 << 32, 64, -1),
    ]  # fmt: skip
    starts, ends, sizes, alignments, pins = zip(*rows, strict=True)
    problem = Problem.from_arrays(sizes, starts, ends, alignment_bytes=1, alignments=alignments, pinned_offsets=pins)
    for planner in ("auto", "branch_and_bound"):
        start_s = time.process_time()
        check(problem, plan(problem, planner=planner, time_limit_s=0.05).offsets)
        assert time.process_time() - start_s < 1


def test_a_planner_without_time_gives_a_simple_plan() -> None:
    random = np.random.default_rng(0)
    starts = random.integers(0, 20_000, 20_000)
    problem = Problem.from_arrays(random.integers(1, 10**6, 20_000), starts, starts + random.integers(1, 10**4, 20_000))
    planned = plan(problem, planner="greedy_by_area_best_fit", time_limit_s=0)
    assert planned.planner == "next_fit"
    check(problem, planned.offsets)


def test_no_memory_for_any_plan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("memomalloc.planners.native.solve", solve)
    with pytest.raises(PlanningMemoryError, match="1 buffers"):
        plan(Problem.from_arrays([1], [0], [1]))


def test_planning_does_not_import_torch() -> None:
    program = "import memomalloc, sys; memomalloc.plan(memomalloc.Problem.from_arrays([1], [0], [1])); "
    program += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


CP_SAT = "ortools.sat.python.cp_model.CpSolver.solve"
MIP = "scipy.optimize.milp"

CTRL_C_PROGRAM = """
import signal, sys, threading, time, warnings
import numpy as np
from memomalloc.data import Problem
from memomalloc.planners import plan

random = np.random.default_rng(1)
starts = random.integers(0, 2000, 1500)
problem = Problem.from_arrays(
    random.integers(1, 10**9, 1500), starts, starts + random.integers(1, 400, 1500), alignment_bytes=1
)
threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT)).start()
start = time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    planned = plan(problem, time_limit_s=60)
assert time.perf_counter() - start < 30
print(planned.arena_bytes >= problem.lower_bound_bytes, [str(w.message) for w in caught])
"""


def test_ctrl_c_returns_the_best_plan_so_far() -> None:
    child = subprocess.run([sys.executable, "-c", CTRL_C_PROGRAM], check=True, capture_output=True, text=True)
    assert child.stdout.startswith("True ['planning was interrupted; this is the best plan so far']")


@pytest.mark.parametrize("planner", ["cp_sat", "mip"])
def test_ctrl_c_and_progress_end_solvers_too(planner: str) -> None:
    pytest.importorskip("ortools" if planner == "cp_sat" else "scipy")
    open_problem = cut_rectangle(150, seed=9, dropped=0.02)
    calls: list[Progress] = []

    def stop(progress: Progress) -> bool:
        calls.append(progress)
        return False

    start_s = time.perf_counter()
    plan(open_problem, planner=planner, time_limit_s=30, progress=stop)
    assert time.perf_counter() - start_s < 15
    assert len(calls) == 1
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.warns(RuntimeWarning, match="interrupted"):
        planned = plan(open_problem, planner=planner, time_limit_s=30)
    timer.join()
    check(open_problem, planned.offsets)
    assert time.perf_counter() - start_s < 25


@pytest.mark.parametrize(("planner", "solver"), [("cp_sat", CP_SAT), ("mip", MIP)])
def test_solvers_that_do_not_read_their_clocks_are_ended_in_time(
    planner: str, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(solver.partition(".")[0])
    monkeypatch.setattr(solver, lambda *args, **kwargs: time.sleep(30))
    problem = cut_rectangle(150, seed=9, dropped=0.02)
    start_s = time.perf_counter()
    planned = plan(problem, planner=planner, time_limit_s=0.5)
    assert time.perf_counter() - start_s < 5
    check(problem, planned.offsets)
    assert planned.planner == planner


@pytest.mark.parametrize(("planner", "module"), [("cp_sat", "ortools"), ("mip", "scipy")])
def test_solvers_improve_what_skyline_finds(planner: str, module: str) -> None:
    pytest.importorskip(module)
    problem = Problem.from_arrays(
        [1, 8, 7, 3, 5, 7, 4], [0, 6, 1, 0, 3, 7, 5], [2, 11, 5, 3, 6, 10, 7], alignment_bytes=1
    )
    assert plan(problem, planner="skyline").arena_bytes == 16
    planned = plan(problem, planner=planner, time_limit_s=20)
    assert (planned.arena_bytes, planned.proven_optimal) == (15, True)


@pytest.mark.parametrize("arguments", [{"seed": 1.5}, {"capacity_bytes": 1.5}, {"time_limit_s": "x"}])
def test_arguments_of_the_wrong_type(arguments: dict[str, Any], open_problem: Problem) -> None:
    with pytest.raises(InvalidProblemError, match=next(iter(arguments))):
        plan(open_problem, **arguments)
