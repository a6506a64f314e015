"""What a compiler's file says about its buffers, whichever compiler it is."""

from __future__ import annotations

from dataclasses import dataclass

from memomalloc.data.problem import Problem


@dataclass(frozen=True)
class DumpedProblem:
    """One memory that a compiler lays out.

    Attributes:
        name: unique in its file; reads like what the compiler calls it.
        problem: its buffers; ticks are steps of the compiler's schedule.
        own_bytes: what the compiler's own layout needs; None where the file does not say.
    """

    name: str
    problem: Problem
    own_bytes: int | None
