"""Traces of several threads: each thread's buffers in a lane of their own, as each runs on a region of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.report.placement import Lane, Placement


def threads_of(trace: Trace) -> tuple[str, ...]:
    """The threads of a trace, in the order in which they first asked; one, which may be nameless, for most traces."""
    return tuple(dict.fromkeys("" if origin is None else origin.thread for origin in trace.origins))


def placement_in_lanes(trace: Trace, plan: Callable[[Trace], Plan]) -> Placement:
    """Where buffers go if each thread's are planned by themselves, and lie above those of the thread before.

    Args:
        trace: of several threads.
        plan: plans one of them.
    """
    of_thread = np.array(["" if origin is None else origin.thread for origin in trace.origins], dtype=object)
    offsets = np.zeros(len(trace), dtype=np.int64)
    lanes: list[Lane] = []
    plans: list[Plan] = []
    base = 0
    for name in threads_of(trace):
        which = np.flatnonzero(of_thread == name)
        planned = plan(
            Trace.from_arrays(
                trace.sizes[which],
                trace.starts[which],
                trace.ends[which],
                trace.escapes[which],
                end_tick=trace.end_tick,
                origins=[trace.origins[i] for i in which.tolist()],
            )
        )
        offsets[which] = base + planned.offsets
        lanes.append(Lane(name, base, planned.arena_bytes))
        plans.append(planned)
        base += planned.arena_bytes
    planner = " and ".join(sorted({planned.planner for planned in plans}))
    return dataclasses.replace(
        Placement.of_addresses(trace, offsets, title=planner),
        offsets=offsets,
        extent_bytes=base,
        lower_bound_bytes=sum(planned.lower_bound_bytes for planned in plans),
        proven_optimal=all(planned.proven_optimal for planned in plans),
        lanes=tuple(lanes),
    )
