"""The one way to make a plan: run a planner, check what it says."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from memomalloc.data.checker import check
from memomalloc.data.columns import Int64Array, int64_column, read_only
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem, require_whole_number
from memomalloc.data.trace import Trace
from memomalloc.errors import CapacityError, InvalidProblemError, PlanningMemoryError
from memomalloc.planners import native
from memomalloc.planners.registry import find
from memomalloc.planners.solution import Request, Solution

_SOLVERS = ("mip", "cp_sat")

_CHECK_S_PER_BUFFER = 5e-7
"""What the check of a plan takes at most; it is kept of the time limit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search has come.

    Attributes:
        best_arena_bytes: of the best plan so far; None before the first.
        lower_bound_bytes: no plan can be smaller.
        elapsed_s: since the call of ``plan``.
    """

    best_arena_bytes: int | None
    lower_bound_bytes: int
    elapsed_s: float


def plan(
    trace_or_problem: Trace | Problem,
    *,
    planner: str = "auto",
    time_limit_s: float = 1.0,
    seed: int = 0,
    capacity_bytes: int | None = None,
    warm_start: Plan | ArrayLike | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Plan:
    """Place every buffer, and say how far from optimal the arena can be.

    The GIL is released while the search runs, so that several threads can plan at once. Ctrl-C ends the search early:
    the best plan so far is returned, with a warning.

    Args:
        trace_or_problem: a trace is planned with an alignment of 64 bytes and with a place of its own for
            every escape; see ``Trace.problem`` for another alignment.
        planner: a registered name; see ``planners.available()``.
        time_limit_s: wall-clock budget, with preparation and check. The best plan found so far is returned when it is
            spent; where the planner has found none by then, a simple one, whose ``planner`` is ``next_fit``. A million
            buffers take about a second whatever the limit.
        seed: equal seeds give equal random choices.
        capacity_bytes: the largest arena that will do; a search stops at the first plan within it. None: what the
            problem says, and if that says nothing, as small as possible.
        warm_start: an earlier plan of this problem or one like it, or its n offsets, -1 for buffers that it had not.
            Buffers are placed in its order first, so that a plan that is valid still is never beaten; ``auto`` searches
            from there. A plan of another number of buffers has those of its first ones. The solvers take none.
        progress: called about 20 times a second while a search runs; returning False ends it.

    Returns:
        A checked plan: n offsets in bytes from the arena base, in buffer order. It is optimal where
        ``proven_optimal``, which holds whenever ``arena_bytes == lower_bound_bytes``.

    Raises:
        UnknownPlannerError: no planner of that name; the message lists those there are.
        CapacityError: no plan within the capacity was found; its ``proven`` says whether none exists.
        InvalidProblemError: the planner does not take that many buffers, or an argument is out of range.
        MissingDependencyError: the planner needs an extra that is not installed.
        PlanningMemoryError: there is not memory enough for any plan. Where it runs out later, the best plan so far is
            returned.
    """
    made, interrupted = plan_until_interrupted(
        trace_or_problem,
        planner=planner,
        time_limit_s=time_limit_s,
        seed=seed,
        capacity_bytes=capacity_bytes,
        warm_start=warm_start,
        progress=progress,
    )
    if interrupted:
        warnings.warn("planning was interrupted; this is the best plan so far", RuntimeWarning, stacklevel=2)
    return made


def plan_until_interrupted(
    trace_or_problem: Trace | Problem,
    *,
    planner: str = "auto",
    time_limit_s: float = 1.0,
    seed: int = 0,
    capacity_bytes: int | None = None,
    warm_start: Plan | ArrayLike | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> tuple[Plan, bool]:
    """What :func:`plan` does, and whether Ctrl-C has ended it, which the caller has to pass on."""
    start_s = time.perf_counter()
    entry = find(planner)
    problem = trace_or_problem.problem() if isinstance(trace_or_problem, Trace) else trace_or_problem
    if not isinstance(time_limit_s, (int, float)) or not time_limit_s >= 0:
        raise InvalidProblemError(f"time_limit_s = {time_limit_s!r:.60} must be a number of seconds, not negative")
    require_whole_number("seed", seed)
    if entry.max_buffers is not None and len(problem) > entry.max_buffers:
        raise InvalidProblemError(
            f"{planner} takes at most {entry.max_buffers} buffers, the problem has {len(problem)}: use auto or skyline"
        )
    capacity = problem.capacity_bytes if capacity_bytes is None else capacity_bytes
    if capacity is not None:
        require_whole_number("capacity_bytes", capacity)
    lower_bound = problem.lower_bound_bytes

    def poll(best_arena: int) -> bool:
        assert progress is not None
        best = None if best_arena < 0 else best_arena
        return progress(Progress(best, lower_bound, time.perf_counter() - start_s)) is not False

    elapsed_s = time.perf_counter() - start_s + _CHECK_S_PER_BUFFER * len(problem)
    warm_offsets = None if warm_start is None else _warm_offsets(warm_start, len(problem))
    request = Request(
        capacity, max(0.0, time_limit_s - elapsed_s), seed, None if progress is None else poll, warm_offsets
    )
    solution = _solve(problem, planner, request)
    offsets, arena = solution.offsets, solution.arena_bytes
    if capacity is not None and (offsets is None or arena > capacity):
        if solution.interrupted:
            raise KeyboardInterrupt
        best = "" if offsets is None else f"; the best found needs {arena}"
        reason = "no plan exists" if solution.proven_infeasible else "no plan was found in time"
        raise CapacityError(
            f"{reason} within {capacity} bytes (lower bound {lower_bound}){best}",
            proven=solution.proven_infeasible,
        )
    assert offsets is not None  # every planner finds some plan where no capacity forbids it
    check(problem, offsets)
    read_only(offsets)

    if isinstance(trace_or_problem, Trace):
        starts, ends, escapes = trace_or_problem.starts, trace_or_problem.ends, trace_or_problem.escapes
        alignment = problem.alignment_bytes
        # A request of no bytes is never made; one of any other size is rounded up.
        smallest_sizes = -(-np.maximum(trace_or_problem.smallest_sizes, 1) // alignment) * alignment
        smallest_sizes = read_only(np.minimum(smallest_sizes, problem.sizes))
    else:
        starts, ends, smallest_sizes = problem.starts, problem.ends, problem.sizes
        escapes = read_only(np.zeros(len(problem), dtype=np.bool_))
    made = Plan(
        sizes=problem.sizes,
        starts=starts,
        ends=ends,
        offsets=offsets,
        escapes=escapes,
        smallest_sizes=smallest_sizes,
        arena_bytes=arena,
        lower_bound_bytes=lower_bound,
        planner=solution.planner,
        proven_optimal=solution.proven_optimal,
        elapsed_s=time.perf_counter() - start_s,
        alignment_bytes=problem.alignment_bytes,
        alignments=problem.alignments,
        pinned_offsets=problem.pinned_offsets,
    )
    return made, solution.interrupted


def _warm_offsets(warm_start: Plan | ArrayLike, num_buffers: int) -> Int64Array:
    offsets = int64_column("warm_start", warm_start.offsets if isinstance(warm_start, Plan) else warm_start)
    if not isinstance(warm_start, Plan) and len(offsets) != num_buffers:
        raise InvalidProblemError(f"warm_start has {len(offsets)} offsets for {num_buffers} buffers")
    found = np.full(num_buffers, -1, dtype=np.int64)
    found[: len(offsets)] = offsets[:num_buffers]
    return read_only(found)


def _solve(problem: Problem, planner: str, request: Request) -> Solution:
    if planner in _SOLVERS and problem.sizes.any():
        # Imported by name: a solver is not installed everywhere.
        module = importlib.import_module(f"memomalloc.planners.{planner}")
        solution: Solution = module.solve(problem, request)
        return solution
    try:
        return native.solve(problem, "bump" if planner in _SOLVERS else planner, request)
    except MemoryError:
        raise PlanningMemoryError(
            f"there is not memory enough to plan {len(problem)} buffers: it takes about 250 bytes for each"
        ) from None
