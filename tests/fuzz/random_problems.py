"""Problems that nobody would write by hand: mixed alignments, sizes up to 2**40, pins, capacities, odd lifetimes."""

from __future__ import annotations

import random

import numpy as np

from memomalloc.data import Problem
from memomalloc.planners import plan

_ALIGNMENTS = ((1,), (64,), (1, 2, 3), (1, 64, 4096), (1, 16, 64, 1 << 20), (3, 5, 7, 100))
_LIFETIMES = ("any", "short", "fifo", "nested", "together", "far")


def random_problem(seed: int, *, max_buffers: int = 3000) -> Problem:
    """A valid problem; equal seeds give equal ones."""
    choose = random.Random(seed)
    n = int(max_buffers ** choose.random() ** 1.5)
    starts, ends = _lifetimes(choose, choose.choice(_LIFETIMES), n)
    largest = choose.choice((16, 40))
    sizes = [_size(choose, largest) for _ in range(n)]
    alignments = choose.choice(_ALIGNMENTS)
    problem = Problem.from_arrays(
        sizes,
        starts,
        ends,
        alignment_bytes=choose.choice((1, 1, 64)),
        alignments=[choose.choice(alignments) for _ in range(n)] if choose.random() < 0.7 else None,
    )
    pins = _pins(choose, problem) if choose.random() < 0.3 else None
    capacity = None
    if choose.random() < 0.3:
        capacity = int(problem.lower_bound_bytes * choose.choice((0.5, 1, 1.02, 1.2, 3)))
    return Problem.from_arrays(
        problem.sizes,
        starts,
        ends,
        alignment_bytes=problem.alignment_bytes,
        alignments=problem.alignments,
        pinned_offsets=pins,
        capacity_bytes=capacity,
    )


def _size(choose: random.Random, largest: int) -> int:
    kind = choose.randrange(6)
    if kind == 0:
        return choose.choice((0, 1, 7, 100))
    if kind == 1:
        return choose.choice((64, 4096, 4255))
    return choose.randrange(1 << choose.randint(1, largest))


def _lifetimes(choose: random.Random, kind: str, n: int) -> tuple[list[int], list[int]]:
    longest = choose.randint(1, n + 1)
    if kind == "fifo":
        return list(range(n)), [i + longest for i in range(n)]
    if kind == "nested":
        return list(range(n)), [2 * n - i + 1 for i in range(n)]
    if kind == "together":
        return [choose.randrange(3) for _ in range(n)], [10 + choose.randrange(3) for _ in range(n)]
    scale = 2**40 if kind == "far" else 1
    starts = [choose.randrange(-n, n + 1) * scale for _ in range(n)]
    width = longest if kind == "any" else 9
    return starts, [start + choose.randint(1, width) * scale for start in starts]


def _pins(choose: random.Random, problem: Problem) -> list[int]:
    """Where a plan has some of the buffers, or far above it."""
    offsets = plan(problem, planner="linear_scan", time_limit_s=1).offsets
    alignments = [problem.alignment_bytes] if problem.alignments is None else problem.alignments
    far = choose.choice((0, 1 << choose.randint(0, 20))) * int(np.lcm.reduce(alignments))
    share = choose.choice((0.01, 0.2, 0.9))
    return [int(offset) + far if choose.random() < share else -1 for offset in offsets.tolist()]
