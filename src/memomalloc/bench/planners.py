"""Every planner on every instance, with omnimalloc and MiniMalloc beside them where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from memomalloc.data.checker import check
from memomalloc.data.problem import Problem
from memomalloc.errors import InvalidProblemError, MissingDependencyError
from memomalloc.planners import available
from memomalloc.planners.planning import plan_until_interrupted

OMNIMALLOC = "omnimalloc"
MINIMALLOC = "minimalloc"
EXTERNAL = (OMNIMALLOC, MINIMALLOC)
"""The planners of the package omnimalloc, and MiniMalloc, which it calls where its package is installed as well."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One planner on one instance.

    Attributes:
        instance: its name.
        num_buffers: of the instance.
        lower_bound_bytes: of the instance.
        planner: its name.
        arena_bytes: None where it made no plan.
        elapsed_s: with preparation and check; for omnimalloc without the conversion of the input.
        proven_optimal: as the planner says, or because the lower bound is reached.
        note: why there is no plan; empty otherwise.
    """

    instance: str
    num_buffers: int
    lower_bound_bytes: int
    planner: str
    arena_bytes: int | None
    elapsed_s: float
    proven_optimal: bool
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Arena to lower bound; None where there is no plan."""
        if self.arena_bytes is None:
            return None
        return self.arena_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 1.0


def planner_names() -> list[str]:
    """Every planner that can run here, those of other projects last."""
    names = [planner.name for planner in available()]
    if importlib.util.find_spec(OMNIMALLOC) is not None:
        names.extend(name for name in EXTERNAL if importlib.util.find_spec(name) is not None)
    return names


def compare(
    instances: Sequence[tuple[str, Problem]], planners: Sequence[str], *, time_limit_s: float, seed: int
) -> Iterator[Measurement]:
    """Measure each planner on each instance, one after the other, in this thread.

    Args:
        instances: names and problems.
        planners: names; those of `EXTERNAL` are among them.
        time_limit_s: for each planner that searches.
        seed: of the random choices.

    Raises:
        KeyboardInterrupt: Ctrl-C; the measurement that it cut short is not given.
    """
    for name, problem in instances:
        for planner in planners:
            run = _run_external if planner in EXTERNAL else _run_planner
            yield _measure(name, problem, planner, partial(run, problem, planner, time_limit_s, seed))


_Run = Callable[[], tuple[int, bool]]


def _measure(instance: str, problem: Problem, planner: str, run: _Run) -> Measurement:
    start_s = time.perf_counter()
    arena_bytes: int | None = None
    proven, note = False, ""
    try:
        arena_bytes, proven = run()
    except InvalidProblemError:
        note = "too large"
    except _NotPlannedError as error:
        note = str(error)
    except (MissingDependencyError, ImportError):
        note = "not installed"
    elapsed_s = time.perf_counter() - start_s
    return Measurement(instance, len(problem), problem.lower_bound_bytes, planner, arena_bytes, elapsed_s, proven, note)


def _run_planner(problem: Problem, planner: str, time_limit_s: float, seed: int) -> tuple[int, bool]:
    planned, interrupted = plan_until_interrupted(problem, planner=planner, time_limit_s=time_limit_s, seed=seed)
    if interrupted:
        # What a search finds in less than its time is no measurement.
        raise KeyboardInterrupt
    return planned.arena_bytes, planned.proven_optimal


class _NotPlannedError(Exception):
    """Why an external planner has no plan, in a word or two."""


def _run_external(problem: Problem, planner: str, time_limit_s: float, seed: int) -> tuple[int, bool]:
    """The best of omnimalloc's own allocators, one after the other, or MiniMalloc asked for the lower bound."""
    if problem.alignments is not None or problem.pinned_offsets is not None:
        raise _NotPlannedError("no alignments")
    omnimalloc: Any = importlib.import_module("omnimalloc")
    allocators: Any = importlib.import_module("omnimalloc.allocators")
    columns = (problem.sizes.tolist(), problem.starts.tolist(), problem.ends.tolist())
    allocations = [
        omnimalloc.Allocation(id=i, size=size, start=start, end=end)
        for i, (size, start, end) in enumerate(zip(*columns, strict=True))
        if size > 0
    ]
    if planner == MINIMALLOC:
        entries = [allocators.MinimallocAllocator(timeout=time_limit_s, capacity=problem.lower_bound_bytes)]
    else:
        entries = [
            allocators.BestFitAllocator(),
            allocators.GreedyByAllAllocator(num_threads=1),
            allocators.SupermallocAllocator(timeout=time_limit_s, num_threads=1),
        ]
    arenas = [arena for entry in entries if (arena := _arena_of(problem, omnimalloc, allocations, entry)) is not None]
    if not arenas:
        raise _NotPlannedError("not found" if planner == MINIMALLOC else "too large")
    return min(arenas), min(arenas) == problem.lower_bound_bytes


def _arena_of(problem: Problem, omnimalloc: Any, allocations: list[Any], allocator: Any) -> int | None:
    """Of the checked plan; None where the allocator gave up."""
    try:
        placed = omnimalloc.allocate(allocations, allocator)
    except (RuntimeError, ValueError, MemoryError):
        return None
    offsets = np.zeros(len(problem), dtype=np.int64)
    for allocation in placed:
        offsets[allocation.id] = allocation.offset
    check(problem, offsets)
    return int(np.max(offsets + problem.sizes, initial=0))
