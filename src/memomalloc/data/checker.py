"""The independent check of a plan: it shares no code with any planner."""

from __future__ import annotations

from numpy.typing import ArrayLike

from memomalloc import _planner
from memomalloc.data.columns import INT64_MAX, first_index, int64_column
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.errors import InvalidPlanError, InvalidProblemError


def check(plan_or_problem: Plan | Problem, offsets: ArrayLike | None = None) -> None:
    """Do nothing for offsets that solve the problem; raise for any others. O(n log n), a sweep over time.

    Args:
        plan_or_problem: a problem, or a plan for its own problem.
        offsets: n offsets in bytes; None: those of the plan.

    Raises:
        InvalidPlanError: an offset is negative, misaligned or not the pinned one, or two buffers that are alive
            together share a byte. The message names the buffers.
    """
    if offsets is None:
        offsets = getattr(plan_or_problem, "offsets", None)
        if offsets is None:
            raise InvalidPlanError("a problem has no offsets of its own: pass them to check()")
    problem: Problem = getattr(plan_or_problem, "problem", None) or plan_or_problem  # type: ignore[assignment]
    try:
        column = int64_column("offsets", offsets)
    except InvalidProblemError as error:
        raise InvalidPlanError(str(error)) from error
    if len(column) != len(problem.sizes):
        raise InvalidPlanError(f"{len(column)} offsets for {len(problem.sizes)} buffers")

    outside = (column < 0) | (column > INT64_MAX - problem.sizes)
    if outside.any():
        index = first_index(outside)
        raise InvalidPlanError(f"{problem.label(index)}: offset {column[index]} is out of range")
    alignment = problem.alignment_bytes if problem.alignments is None else problem.alignments
    misaligned = column % alignment != 0
    if misaligned.any():
        index = first_index(misaligned)
        raise InvalidPlanError(f"{problem.label(index)}: offset {column[index]} is not a multiple of its alignment")
    pins = problem.pinned_offsets
    if pins is not None:
        moved = (pins >= 0) & (pins != column)
        if moved.any():
            index = first_index(moved)
            raise InvalidPlanError(f"{problem.label(index)}: offset {column[index]}, but it is pinned to {pins[index]}")

    first, second = _planner.find_overlap(problem.sizes, problem.starts, problem.ends, column)
    if first >= 0:
        both = [
            f"{problem.label(i)} (bytes [{column[i]}, {column[i] + problem.sizes[i]}), "
            f"ticks [{problem.starts[i]}, {problem.ends[i]}))"
            for i in (first, second)
        ]
        raise InvalidPlanError(f"two live buffers share bytes: {both[0]} and {both[1]}")
