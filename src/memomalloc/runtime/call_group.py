"""Calls that share a plan, and how that plan is learned and grows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners import plan as make_plan
from memomalloc.planners.merging import merge
from memomalloc.runtime import extension
from memomalloc.runtime.armed_plan import ArenaSettings, ArmedPlan
from memomalloc.runtime.events import report
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.learned_calls import LearnedCalls
from memomalloc.runtime.shape_policy import ROOM_TO_GROW, Envelope

#: Recordings of equal calls that are merged if no two in a row agreed.
MAX_RECORDINGS = 5
#: Recordings of calls of various shapes before the first plan: two show what varies.
MIN_RECORDINGS_OF_VARIOUS = 2
#: A plan that was merged so often is grown no further; the guard serves what it can.
MAX_GROWTHS = 64
#: So many runs in a row that deviate though the plan grew, and it is learned from nothing: the program has changed.
DEVIATIONS_BEFORE_RESTART = 32
MAX_RESTARTS = 3


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How plans are made and armed.

    Attributes:
        planner: a registered planner.
        time_limit_s: wall-clock budget of one planning, in seconds.
        warm_up_calls: calls before the first recording.
        arenas: how the arenas of a plan are kept.
    """

    planner: str = "auto"
    time_limit_s: float = 1.0
    warm_up_calls: int = 2
    arenas: ArenaSettings = dataclasses.field(default_factory=lambda: ArenaSettings())


def _agree(a: Trace, b: Trace) -> bool:
    """Whether two recordings saw the same events in the same order."""
    columns = ("sizes", "smallest_sizes", "starts", "ends", "escapes")
    return all(np.array_equal(getattr(a, column), getattr(b, column)) for column in columns)


class CallGroup(LockHolder):
    """Calls that share a plan. Changed only by the thread that holds ``lock``.

    Calls are warmed up, then recorded: until two recordings in a row agree, or, where shapes or the program's branches
    vary, until there are enough to merge. A group that is armed is recorded again, while it is replayed, when a call
    is larger than those before or deviates; what is new in it is merged into the plan.

    Attributes:
        armed: the plan that serves these calls; None while they are learned. Read by all threads.
        wants_recording: the next call should be recorded. Read by all threads.
        unplannable: why these calls can never be planned; empty if they can.
        last_use: rises with every use.
    """

    def __init__(self, name: str, settings: PlanSettings, budget: object, *, shapes_vary: bool) -> None:
        super().__init__()
        self.armed: ArmedPlan | None = None
        self.wants_recording = False
        self.unplannable = ""
        self.last_use = 0
        self.envelope = Envelope()
        self._name = name
        self._settings = settings
        self._budget = budget
        self._shapes_vary = shapes_vary
        self._warm_up_left = settings.warm_up_calls
        self._traces: list[Trace] = []
        self._trace: Trace | None = None  # of all recordings, merged; set once armed
        self._num_growths = 0
        self._num_useless_recordings = 0
        self._num_deviating = 0  # since the last recording
        self._num_deviating_in_row = 0
        self._num_restarts = 0
        self._learned: LearnedCalls | None = None

    @property
    def learned(self) -> LearnedCalls | None:
        """What another process needs to start armed; None before this group is armed."""
        learned = self._learned
        if learned is None or self.armed is None:
            return None
        lowest, highest = self.envelope.bounds
        return dataclasses.replace(learned, lowest=lowest, highest=highest)

    @property
    def trace(self) -> Trace | None:
        """What the plan was made of; None before."""
        return self._trace

    def warm_up(self) -> bool:
        """Whether this call only warms up; counts it."""
        if self._warm_up_left == 0:
            return False
        self._warm_up_left -= 1
        return True

    def seed(self, traces: Sequence[Trace], sizes: Sequence[Sequence[int]]) -> None:
        """Start from recordings of calls of these sizes, made elsewhere."""
        self._warm_up_left = 0
        for call in sizes:
            self.envelope.add(call)
        self._trace = merge(traces)
        self._arm(0)

    def adopt(self, learned: LearnedCalls) -> None:
        """Start armed, with what another process has learned."""
        self._warm_up_left = 0
        self.envelope.add(learned.lowest)
        self.envelope.add(learned.highest)
        self._trace = learned.trace
        self._arm(learned.upstream_peak_bytes, learned.plan)

    # --- Learning --------------------------------------------------------------------------------------------------

    def add(self, trace: Trace, upstream_peak_bytes: int, sizes: Sequence[int]) -> None:
        """A call of these sizes was recorded: arm the group, or let its plan grow, if it is time."""
        self.wants_recording = False
        self._num_deviating = 0
        self.envelope.add(sizes)
        if self._trace is not None:
            self._grow(self._trace, trace)
            return
        agreed = bool(self._traces) and not self._shapes_vary and _agree(self._traces[-1], trace)
        self._traces.append(trace)
        if agreed:
            self._trace = trace
        elif len(self._traces) >= (MIN_RECORDINGS_OF_VARIOUS if self._shapes_vary else MAX_RECORDINGS):
            self._trace = merge(self._traces)
        else:
            return
        self._traces = []
        self._arm(upstream_peak_bytes)

    def _grow(self, known: Trace, trace: Trace) -> None:
        merged = merge([known, trace])
        if _agree(merged, merge([known])):
            self._num_useless_recordings += 1
            return
        self._num_useless_recordings = 0
        self._num_growths += 1
        self._trace = merged
        self._arm(self.armed.upstream_peak_bytes if self.armed is not None else 0)

    def _arm(self, upstream_peak_bytes: int, plan: Plan | None = None) -> None:
        assert self._trace is not None
        trace = _with_room(self._trace) if self._shapes_vary else self._trace
        try:
            if plan is None:
                plan = make_plan(trace, planner=self._settings.planner, time_limit_s=self._settings.time_limit_s)
            self.armed = ArmedPlan(
                plan,
                origins=trace.origins,
                upstream_peak_bytes=upstream_peak_bytes,
                settings=self._settings.arenas,
                budget=self._budget,
            )
        except MemomallocError as error:
            self.unplannable = "unplannable"
            self.armed = None
            text = f"calls of {self._name} cannot be planned and run unplanned: {error}"
            report("unplannable", self._name, text, reason=str(error))
            return
        if self._num_growths == 0:
            extension.install().release_upstream_memory()
        self._learned = LearnedCalls(
            plan, self._trace, upstream_peak_bytes=upstream_peak_bytes, num_threads=torch.get_num_threads()
        )
        event = "grew" if self._num_growths else "armed"
        report(
            event,
            self._name,
            f"{event} a plan for {self._name}: {plan.num_buffers} buffers, {plan.arena_bytes} bytes, lower bound "
            f"{plan.lower_bound_bytes} bytes, by {plan.planner}",
            num_buffers=plan.num_buffers,
            arena_bytes=plan.arena_bytes,
            lower_bound_bytes=plan.lower_bound_bytes,
            planner=plan.planner,
            elapsed_s=plan.elapsed_s,
        )

    # --- Runs ------------------------------------------------------------------------------------------------------

    def ran_as_planned(self) -> None:
        """A run asked upstream for nothing."""
        self._num_deviating_in_row = 0

    def deviated(self) -> None:
        """A run asked upstream for something. Any thread may say so; counts may be lost, which does no harm."""
        self._num_deviating_in_row += 1
        self._num_deviating += 1
        # Recordings that taught nothing make the next one rarer.
        may_grow = self._num_growths < MAX_GROWTHS
        if self.needs_restart() or (may_grow and self._num_deviating >= 1 << min(self._num_useless_recordings, 10)):
            self.wants_recording = True

    def needs_restart(self) -> bool:
        """Whether the program has changed for good, so that what was learned of it is of no use."""
        return self._num_deviating_in_row >= DEVIATIONS_BEFORE_RESTART and self._num_restarts < MAX_RESTARTS

    def restart(self) -> None:
        """Learn from nothing. The caller has taken care of ``armed``."""
        text = f"{self._name} deviated {self._num_deviating_in_row} times in a row: learning anew"
        report("restarted", self._name, text, num_runs=self._num_deviating_in_row)
        self.armed = None
        self._trace = None
        self._traces = []
        self.envelope = Envelope()
        self._num_growths = self._num_useless_recordings = 0
        self._num_deviating = self._num_deviating_in_row = 0
        self._num_restarts += 1


def _with_room(trace: Trace) -> Trace:
    """The same with larger sizes where sizes vary, and with no smallest size there: for calls yet to come."""
    varies = trace.smallest_sizes < trace.sizes
    sizes = np.where(varies, (trace.sizes * ROOM_TO_GROW).astype(np.int64), trace.sizes)
    return dataclasses.replace(trace, sizes=sizes, smallest_sizes=np.where(varies, 1, trace.smallest_sizes))
