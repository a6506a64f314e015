"""What was learned of a kind of call: enough for another process to replay it, and to let its plan grow."""

from __future__ import annotations

from dataclasses import dataclass

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace


@dataclass(frozen=True, eq=False)
class LearnedCalls:
    """A plan with all that belongs to it.

    Attributes:
        plan: what is replayed.
        trace: what the plan was made of, buffer by buffer.
        lowest: the smallest sizes that calls were seen to have, see ``Envelope``; empty where all calls are alike.
        highest: the largest ones.
        upstream_peak_bytes: what a call took from upstream; 0: not known.
        num_threads: of torch, inside an operator, when it was learned.
        by_origin: requests are matched by the operators that ask, see :func:`memomalloc.optimize`.
    """

    plan: Plan
    trace: Trace
    lowest: tuple[int, ...] = ()
    highest: tuple[int, ...] = ()
    upstream_peak_bytes: int = 0
    num_threads: int = 1
    by_origin: bool = False
