"""The planner ``cp_sat``: constraint programming by OR-Tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from memomalloc.data.columns import Int64Array
from memomalloc.data.problem import Problem
from memomalloc.extras import require
from memomalloc.planners.solution import Request, Solution
from memomalloc.planners.solver_model import Search, solve_model


def solve(problem: Problem, request: Request) -> Solution:
    """Rectangles in time and memory that do not overlap, and a cumulative resource over time to bound them.

    Args:
        problem: has at least one buffer that has bytes.
        request: how.

    Raises:
        MissingDependencyError: OR-Tools is not installed.
    """
    cp_model: Any = require("ortools.sat.python.cp_model", extra="solvers", feature="the planner cp_sat")
    return solve_model(problem, "cp_sat", request, lambda search: _solve(cp_model, search))


def _solve(cp_model: Any, search: Search) -> None:
    data, findings = search.data, search.findings
    highest = data.known_height if search.capacity is None else search.capacity
    model = cp_model.CpModel()
    height = model.new_int_var(data.lower_bound, highest, "height")
    lifetimes, places, offsets = [], [], []
    for i, size in enumerate(data.sizes.tolist()):
        pin, alignment = int(data.pins[i]), int(data.alignments[i])
        if pin + size > highest or size > highest:
            findings.infeasible = True
            return
        if pin >= 0:
            offset = model.new_constant(pin)
        elif alignment > 1:
            offset = model.new_int_var(0, (highest - size) // alignment, "") * alignment
        else:
            offset = model.new_int_var(0, highest - size, "")
        start, end = int(data.starts[i]), int(data.ends[i])
        lifetimes.append(model.new_fixed_size_interval_var(start, end - start, ""))
        places.append(model.new_fixed_size_interval_var(offset, size, ""))
        model.add(height >= offset + size)
        offsets.append(offset)
        if pin < 0 and alignment == 1 and search.capacity is None:
            model.add_hint(offset, int(data.known[i]))
    model.add_no_overlap_2d(lifetimes, places)
    model.add_cumulative(lifetimes, data.sizes.tolist(), height)
    if search.capacity is None:
        model.minimize(height)

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = search.seed % 2**31
    solver.parameters.catch_sigint_signal = False

    def found(value: Callable[[Any], int]) -> None:
        bases: Int64Array = np.array([value(offset) for offset in offsets], dtype=np.int64)
        findings.put(bases, data.height(bases))

    status = solver.solve(model, _callback(cp_model, found))
    findings.optimal = status == cp_model.OPTIMAL
    findings.infeasible = status == cp_model.INFEASIBLE


def _callback(cp_model: Any, found: Callable[[Callable[[Any], int]], None]) -> Any:
    """Tells ``found`` the values of each solution, the last of which is the best."""

    class Callback(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            found(self.value)

    return Callback()
