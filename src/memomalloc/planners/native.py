"""The planners of ``memomalloc._planner``."""

from __future__ import annotations

from memomalloc import _planner
from memomalloc.data.problem import Problem
from memomalloc.planners.solution import Request, Solution


def solve(problem: Problem, planner: str, request: Request) -> Solution:
    """Run one of them, without the GIL.

    Args:
        problem: at most as many buffers as the planner takes.
        planner: a name of ``_planner.planner_names()``.
        request: how.
    """
    return Solution(
        *_planner.plan(
            planner,
            problem.sizes,
            problem.starts,
            problem.ends,
            problem.alignments,
            problem.pinned_offsets,
            request.capacity_bytes,
            request.time_limit_s,
            request.seed,
            request.warm_start,
            request.poll,
        )
    )
