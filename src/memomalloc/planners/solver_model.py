"""What the models of all solvers start from: whole units, pairs of neighbours, a plan to beat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from memomalloc.data.columns import Int64Array
from memomalloc.data.problem import Problem
from memomalloc.errors import InvalidProblemError
from memomalloc.planners import native
from memomalloc.planners.solution import Request, Solution
from memomalloc.planners.solver_process import Findings, run_solver


@dataclass(frozen=True, slots=True)
class SolverModel:
    """A problem in units: the greatest common divisor of all sizes, pins and alignments.

    Attributes:
        buffers: indices of those that have bytes.
        sizes: in units, of these buffers; so are all columns below.
        starts: ranks of ticks among all of the problem's.
        ends: ranks of ticks.
        alignments: in units.
        pins: in units, -1 for free.
        unit_bytes: of one unit.
        lower_bound: in units.
        known: offsets in units of a plan that skyline found.
        known_height: of that plan.
        interrupted: Ctrl-C came while it was made.
    """

    buffers: Int64Array
    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    alignments: Int64Array
    pins: Int64Array
    unit_bytes: int
    lower_bound: int
    known: Int64Array
    known_height: int
    interrupted: bool = False

    @classmethod
    def of(cls, problem: Problem) -> SolverModel:
        """The model of a problem with at least one buffer that has bytes."""
        n = len(problem)
        buffers = np.flatnonzero(problem.sizes)
        alignments = np.ones(n, dtype=np.int64) if problem.alignments is None else problem.alignments
        pins = np.full(n, -1, dtype=np.int64) if problem.pinned_offsets is None else problem.pinned_offsets
        sizes, alignments, pins = problem.sizes[buffers], alignments[buffers], pins[buffers]
        unit = int(np.gcd.reduce(np.concatenate([sizes, pins[pins >= 0]])))
        if (unit % alignments != 0).any():
            unit = int(np.gcd.reduce(np.append(alignments, unit)))
        # Solvers take no difference of two ticks that needs 64 bits; only the order of ticks matters.
        ticks = np.unique(np.concatenate([problem.starts[buffers], problem.ends[buffers]]))
        known = native.solve(problem, "skyline", Request(None, 1.0, 0, None))
        assert known.offsets is not None
        return cls(
            buffers=buffers,
            sizes=sizes // unit,
            starts=np.searchsorted(ticks, problem.starts[buffers]),
            ends=np.searchsorted(ticks, problem.ends[buffers]),
            alignments=np.maximum(alignments // unit, 1),
            pins=np.where(pins >= 0, pins // unit, -1),
            unit_bytes=unit,
            lower_bound=-(-problem.lower_bound_bytes // unit),
            known=known.offsets[buffers] // unit,
            known_height=known.arena_bytes // unit,
            interrupted=known.interrupted,
        )

    @property
    def num_pairs(self) -> int:
        """How many pairs of buffers are alive at a common tick."""
        starts, ends = np.sort(self.starts), np.sort(self.ends)
        # Those that are born before one dies, less itself and those that have died before it is born.
        return int(np.searchsorted(starts, ends).sum() - np.arange(1, len(ends) + 1).sum())

    def neighbours(self) -> list[tuple[int, int]]:
        """The pairs of buffers, by position in the columns, that are alive at a common tick."""
        by_start = np.argsort(self.starts, kind="stable")
        active: list[int] = []
        pairs: list[tuple[int, int]] = []
        for i in by_start.tolist():
            active = [j for j in active if self.ends[j] > self.starts[i]]
            pairs.extend((j, i) for j in active)
            active.append(i)
        return pairs

    def offsets_in_order(self, order: Int64Array) -> Int64Array:
        """Offsets in units if the buffers are stacked in this order, each above all earlier ones it is alive with."""
        offsets = np.zeros(len(self.sizes), dtype=np.int64)
        placed: list[int] = []
        for i in order.tolist():
            below = [j for j in placed if self.starts[j] < self.ends[i] and self.starts[i] < self.ends[j]]
            floor = max((int(offsets[j] + self.sizes[j]) for j in below), default=0)
            alignment = int(self.alignments[i])
            offsets[i] = self.pins[i] if self.pins[i] >= 0 else -(-floor // alignment) * alignment
            placed.append(i)
        return offsets

    def height(self, offsets: Int64Array) -> int:
        """The largest offset plus size, in units."""
        return int(np.max(offsets + self.sizes))

    def to_bytes(self, problem: Problem, offsets: Int64Array) -> Int64Array:
        """Offsets in bytes of all buffers of the problem, the empty ones at their pin or at 0."""
        pins = problem.pinned_offsets
        everywhere = np.zeros(len(problem), dtype=np.int64) if pins is None else np.maximum(pins, 0)
        everywhere[self.buffers] = offsets * self.unit_bytes
        return everywhere


@dataclass(frozen=True, slots=True)
class Search:
    """What a solver is asked.

    Attributes:
        data: the problem in units.
        capacity: in units, None: as low as possible.
        end_s: when it is killed, by ``time.perf_counter()``.
        seed: of its random choices.
        findings: where it puts offsets in units, each lower than those before, and proofs.
    """

    data: SolverModel
    capacity: int | None
    end_s: float
    seed: int
    findings: Findings


def solve_model(
    problem: Problem,
    planner: str,
    request: Request,
    solver: Callable[[Search], None],
    *,
    max_pairs: int | None = None,
) -> Solution:
    """The lowest of the plan of skyline and of what a solver finds in a process of its own, which ends with the limit.

    Args:
        problem: has at least one buffer that has bytes.
        planner: its name.
        request: how.
        solver: called in a copy of this process, if skyline's plan can be improved.
        max_pairs: more pairs of buffers that are alive together are refused.

    Raises:
        InvalidProblemError: there are more than ``max_pairs``.
    """
    end_s = time.perf_counter() + request.time_limit_s
    data = SolverModel.of(problem)
    if max_pairs is not None and data.num_pairs > max_pairs:
        raise InvalidProblemError(
            f"more than {max_pairs} pairs of buffers are alive together: use auto or branch_and_bound"
        )
    capacity = None if request.capacity_bytes is None else request.capacity_bytes // data.unit_bytes
    goal = data.lower_bound if capacity is None else capacity
    findings = Findings(len(data.sizes))
    interrupted = data.interrupted
    if data.known_height > goal >= data.lower_bound and not interrupted:

        def go_on() -> bool:
            best = findings.best
            height = data.known_height if best is None else min(best[1], data.known_height)
            return request.poll is None or request.poll(height * data.unit_bytes)

        search = Search(data, capacity, end_s, request.seed, findings)
        interrupted = run_solver(partial(solver, search), end_s, go_on)
    offsets, height = findings.best or (data.known, data.known_height)
    if height > data.known_height:
        offsets, height = data.known, data.known_height
    optimal = height == data.lower_bound or (capacity is None and findings.optimal)
    infeasible = goal < data.lower_bound or findings.infeasible
    return Solution(
        data.to_bytes(problem, offsets), height * data.unit_bytes, planner, optimal, infeasible, interrupted=interrupted
    )
