"""The planner ``cp_sat``: constraint programming by OR-Tools."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from memomalloc.data.problem import Problem
from memomalloc.extras import require
from memomalloc.planners.background import Background
from memomalloc.planners.solution import Request, Solution
from memomalloc.planners.solver_model import SolverModel, solve_model

_STOPPING_TIME_S = 10.0
"""CP-SAT ends soon after it is told to."""


def solve(problem: Problem, request: Request) -> Solution:
    """Rectangles in time and memory that do not overlap, and a cumulative resource over time to bound them.

    Args:
        problem: has at least one buffer that has bytes.
        request: its ``time_limit_s`` is also what building the model may take from.

    Raises:
        MissingDependencyError: OR-Tools is not installed.
    """
    start_s = time.perf_counter()
    cp_model: Any = require("ortools.sat.python.cp_model", extra="solvers", feature="the planner cp_sat")
    return solve_model(problem, "cp_sat", lambda model_data: _search(cp_model, problem, model_data, request, start_s))


def _search(cp_model: Any, problem: Problem, model_data: SolverModel, request: Request, start_s: float) -> Solution:
    capacity = None if request.capacity_bytes is None else request.capacity_bytes // model_data.unit_bytes
    highest = model_data.known_height if capacity is None else capacity
    if model_data.lower_bound > highest:
        return Solution(None, 0, "cp_sat", False, True)

    model = cp_model.CpModel()
    height = model.new_int_var(model_data.lower_bound, highest, "height")
    lifetimes, places, offsets = [], [], []
    for i, size in enumerate(model_data.sizes.tolist()):
        pin, alignment = int(model_data.pins[i]), int(model_data.alignments[i])
        if pin + size > highest or size > highest:
            return Solution(None, 0, "cp_sat", False, True)
        if pin >= 0:
            offset = model.new_constant(pin)
        elif alignment > 1:
            offset = model.new_int_var(0, (highest - size) // alignment, "") * alignment
        else:
            offset = model.new_int_var(0, highest - size, "")
        start, end = int(model_data.starts[i]), int(model_data.ends[i])
        lifetimes.append(model.new_fixed_size_interval_var(start, end - start, ""))
        places.append(model.new_fixed_size_interval_var(offset, size, ""))
        model.add(height >= offset + size)
        offsets.append(offset)
        if pin < 0 and alignment == 1 and capacity is None:
            model.add_hint(offset, int(model_data.known[i]))
    model.add_no_overlap_2d(lifetimes, places)
    model.add_cumulative(lifetimes, model_data.sizes.tolist(), height)
    if capacity is None:
        model.minimize(height)

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.0, request.time_limit_s - (time.perf_counter() - start_s))
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = request.seed % 2**31
    solver.parameters.catch_sigint_signal = False
    callback = _callback(cp_model, model_data.unit_bytes)
    search = Background(lambda: solver.solve(model, callback))
    try:
        search.wait(lambda: request.poll is None or request.poll(callback.best_arena))
    finally:
        solver.stop_search()
        status = search.result(within_s=_STOPPING_TIME_S)
    if status is None:
        return model_data.known_solution(problem, "cp_sat")
    if status == cp_model.INFEASIBLE:
        return Solution(None, 0, "cp_sat", False, True)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = np.array([solver.value(offset) for offset in offsets], dtype=np.int64)
    elif capacity is None or search.interrupted:
        found = model_data.known
    else:
        return Solution(None, 0, "cp_sat", False, False)
    arena = model_data.height(found)
    optimal = arena == model_data.lower_bound or (capacity is None and status == cp_model.OPTIMAL)
    return Solution(
        model_data.to_bytes(problem, found),
        arena * model_data.unit_bytes,
        "cp_sat",
        optimal,
        False,
        interrupted=search.interrupted,
    )


def _callback(cp_model: Any, unit_bytes: int) -> Any:
    """Knows the best arena in bytes so far, -1 before the first."""

    class Callback(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        best_arena = -1

        def on_solution_callback(self) -> None:
            self.best_arena = int(self.objective_value) * unit_bytes

    return Callback()
