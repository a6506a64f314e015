"""What any planner answers, before it is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memomalloc.data.columns import Int64Array

#: Told the best arena in bytes so far (-1: none); False ends the search.
Poll = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """How to plan, whichever planner does it.

    Attributes:
        capacity_bytes: any plan within it will do; None: as small as possible.
        time_limit_s: of the planner, its preparation included.
        seed: of the random choices.
        poll: called now and then, if there is one.
        warm_start: offsets of an earlier plan, -1 for buffers that it had not.
    """

    capacity_bytes: int | None
    time_limit_s: float
    seed: int
    poll: Poll | None
    warm_start: Int64Array | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets and what is known about them.

    Attributes:
        offsets: bytes, in buffer order; None where no plan was found.
        arena_bytes: of these offsets.
        planner: who found them.
        proven_optimal: there is no smaller arena.
        proven_infeasible: there is no plan within the capacity.
        interrupted: Ctrl-C ended the search.
    """

    offsets: Int64Array | None
    arena_bytes: int
    planner: str
    proven_optimal: bool
    proven_infeasible: bool
    interrupted: bool = False
