"""The planner ``mip``: the mixed-integer program of the paper, solved by HiGHS within SciPy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from memomalloc.data.problem import Problem
from memomalloc.extras import require
from memomalloc.planners.solution import Request, Solution
from memomalloc.planners.solver_model import Search, SolverModel, solve_model

MAX_PAIRS = 50_000
"""More take HiGHS more memory than a planner may."""

_SHARE_OF_SEARCH = 0.9
"""HiGHS tells nothing before its end, so it is to end before it is killed: it reads its clock late, later the more
pairs there are, and what comes before its first node, a tenth of a millisecond a pair, without a look at it."""

_MAX_HEIGHT_FOR_PROOF = 10**6
"""In units. HiGHS computes in floating point with a tolerance of 1e-6 or so, and the big M is this height."""

_MIN_DISTANCE_FOR_PROOF = 0.5
"""In units: heights are whole, so a bound that is less than one below the height proves it; half is kept in reserve."""


def solve(problem: Problem, request: Request) -> Solution:
    """One offset per buffer, one binary per pair of neighbours that says which is below, the height to minimise.

    Args:
        problem: has at least one buffer that has bytes.
        request: how.

    Raises:
        InvalidProblemError: there are more than `MAX_PAIRS` pairs of neighbours.
        MissingDependencyError: SciPy is not installed.
    """
    optimize: Any = require("scipy.optimize", extra="solvers", feature="the planner mip")
    return solve_model(problem, "mip", request, lambda search: _solve(optimize, search), max_pairs=MAX_PAIRS)


def _solve(optimize: Any, search: Search) -> None:
    data, findings = search.data, search.findings
    pairs = data.neighbours()
    program = _program(optimize, data, pairs)
    time_limit_s = _SHARE_OF_SEARCH * (search.end_s - time.perf_counter())
    options = {"time_limit": max(0.0, time_limit_s), "mip_rel_gap": 0.0, "disp": False}
    result = optimize.milp(**program, options=options)
    best_height = data.known_height
    if result.x is not None:
        # Floating-point offsets give an order; the order gives exact offsets.
        found = data.offsets_in_order(np.argsort(result.x[: len(data.sizes)], kind="stable"))
        if data.height(found) < best_height and _is_valid(data, pairs, found):
            best_height = data.height(found)
            findings.put(found, best_height)
    if result.mip_dual_bound is not None and data.known_height <= _MAX_HEIGHT_FOR_PROOF:
        bound = float(result.mip_dual_bound)
        findings.optimal = best_height - bound < 1 - _MIN_DISTANCE_FOR_PROOF
        findings.infeasible = search.capacity is not None and bound > search.capacity + _MIN_DISTANCE_FOR_PROOF


def _program(optimize: Any, data: SolverModel, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """The arguments of ``milp``. Columns: offsets, the height, a binary per pair, a multiplier per aligned offset."""
    sparse: Any = require("scipy.sparse", extra="solvers", feature="the planner mip")
    n, big = len(data.sizes), float(data.known_height)
    sizes = data.sizes.astype(float)
    aligned = np.flatnonzero((data.alignments > 1) & (data.pins < 0))
    height, first_pair, first_multiplier = n, n + 1, n + 1 + len(pairs)
    num_columns = first_multiplier + len(aligned)

    lowest = np.zeros(num_columns)
    highest = np.concatenate([big - sizes, [big], np.ones(len(pairs)), np.full(len(aligned), big)])
    lowest[:n] = np.where(data.pins >= 0, data.pins, 0)
    highest[:n] = np.where(data.pins >= 0, data.pins, highest[:n])
    lowest[height] = data.lower_bound

    rows: list[list[tuple[int, float]]] = []
    at_least: list[float] = []
    for i in range(n):
        rows.append([(height, 1.0), (i, -1.0)])
        at_least.append(sizes[i])
    for column, (i, j) in enumerate(pairs, start=first_pair):
        # The binary is 1 where i is below j.
        rows.append([(j, 1.0), (i, -1.0), (column, -big)])
        at_least.append(sizes[i] - big)
        rows.append([(i, 1.0), (j, -1.0), (column, big)])
        at_least.append(sizes[j])
    at_most = [np.inf] * len(rows)
    for column, i in enumerate(aligned.tolist(), start=first_multiplier):
        rows.append([(i, 1.0), (column, -float(data.alignments[i]))])
        at_least.append(0.0)
        at_most.append(0.0)
    entries = [(row, column, value) for row, terms in enumerate(rows) for column, value in terms]
    row_indices, column_indices, values = zip(*entries, strict=True)
    matrix = sparse.csr_array((values, (row_indices, column_indices)), shape=(len(rows), num_columns))

    cost = np.zeros(num_columns)
    cost[height] = 1.0
    integrality = np.zeros(num_columns)
    integrality[first_pair:] = 1
    return {
        "c": cost,
        "integrality": integrality,
        "bounds": optimize.Bounds(lowest, highest),
        "constraints": optimize.LinearConstraint(matrix, at_least, at_most),
    }


def _is_valid(data: SolverModel, pairs: list[tuple[int, int]], offsets: Any) -> bool:
    """Whether no two neighbours overlap: pins can break an order that was rounded."""
    return all(offsets[i] + data.sizes[i] <= offsets[j] or offsets[j] + data.sizes[j] <= offsets[i] for i, j in pairs)
