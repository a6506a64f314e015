"""Plans for the memories of a device: run the planner, check what it says."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping

from memomalloc import _planner
from memomalloc.data.columns import read_only
from memomalloc.data.device_checker import check_device
from memomalloc.data.device_plan import DevicePlan, columns_of, cost_of
from memomalloc.data.device_problem import DeviceProblem, Place
from memomalloc.data.problem import require_whole_number
from memomalloc.errors import CapacityError, InvalidProblemError, PlanningMemoryError


def plan_device(
    problem: DeviceProblem,
    *,
    time_limit_s: float = 1.0,
    seed: int = 0,
    warm_start: DevicePlan | Mapping[str, Place] | None = None,
    progress: Callable[[int | None], object] | None = None,
) -> DevicePlan:
    """Place every buffer of a device in one of its memories, at the least cost.

    Among the cheapest plans that are found, one with as few bytes as possible in the memories without a capacity;
    within a capacity any place is as good as another. Ctrl-C ends the search early: the best plan so far is returned,
    with a warning.

    Args:
        problem: for a device.
        time_limit_s: wall-clock budget. The best plan found so far is returned when it is spent.
        seed: equal seeds give equal random choices.
        warm_start: an earlier plan, of this problem or of one like it; buffers are told by their ids.
        progress: called about 20 times a second with the bytes that were last reached in the memory that is being
            planned, None before the first; returning False ends it.

    Returns:
        A checked plan.

    Raises:
        CapacityError: no plan within the capacities was found; its ``proven`` says whether none exists.
        InvalidProblemError: an argument is out of range.
        PlanningMemoryError: there is not memory enough to plan it.
    """
    start_s = time.perf_counter()
    if not isinstance(time_limit_s, (int, float)) or not time_limit_s >= 0:
        raise InvalidProblemError(f"time_limit_s = {time_limit_s!r:.60} must be a number of seconds, not negative")
    require_whole_number("seed", seed)
    warm = None
    if warm_start is not None:
        warm = columns_of(problem, warm_start.by_id() if isinstance(warm_start, DevicePlan) else warm_start)

    def poll(best: int) -> bool:
        assert progress is not None
        return progress(None if best < 0 else best) is not False

    try:
        places, cost, lower_bound, _, cheapest, optimal, infeasible, interrupted = _planner.plan_device(
            problem.columns, time_limit_s, seed, warm, None if progress is None else poll
        )
    except MemoryError:
        raise PlanningMemoryError(f"there is not memory enough to plan {len(problem)} buffers of a device") from None
    if places is None:
        if interrupted:
            raise KeyboardInterrupt
        reason = "no plan exists" if infeasible else "no plan was found in time"
        raise CapacityError(f"{reason} within the capacities of {_capacities(problem)}", proven=infeasible)
    check_device(problem, *places)
    assert cost == cost_of(problem, places[0])
    if interrupted:
        warnings.warn("planning was interrupted; this is the best plan so far", RuntimeWarning, stacklevel=2)
    return DevicePlan(
        problem,
        memories=read_only(places[0]),
        chunks=read_only(places[1]),
        offsets=read_only(places[2]),
        cost=cost,
        lower_bound_cost=lower_bound,
        proven_cheapest=cheapest,
        proven_optimal=optimal,
        elapsed_s=time.perf_counter() - start_s,
    )


def _capacities(problem: DeviceProblem) -> str:
    bounded = [memory for memory in problem.memories if memory.capacity_bytes is not None]
    texts = [f"{memory.name!r:.60} ({memory.capacity_bytes})" for memory in bounded]
    return ", ".join(texts) or "any size: pins lie on each other"
