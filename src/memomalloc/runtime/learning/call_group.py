"""Calls that share a plan, and how that plan is learned and grows."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
import torch

from memomalloc.data.columns import BoolArray, UInt64Array, read_only
from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners.merging import in_slots, merge
from memomalloc.planners.planning import plan_until_interrupted
from memomalloc.runtime import extension
from memomalloc.runtime.events import report
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.learning.envelope import ROOM_TO_GROW, Envelope
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.learning.recorder import Recording, given_back
from memomalloc.runtime.memory.armed_plan import ArenaSettings, ArmedPlan

#: Recordings of equal calls that are merged if no two in a row agreed.
MAX_RECORDINGS = 5
#: Recordings of calls of various shapes before the first plan: two show what varies.
MIN_RECORDINGS_OF_VARIOUS = 2
#: A plan that was merged so often is grown no further; the guard serves what it can.
MAX_GROWTHS = 64
#: Growing costs as much as serving so many times the requests of a run from the plan gains, once it was done often.
COST_OF_GROWTH = 1 / 8
#: Recordings in a row that may fail to meet a call of those that deviate.
MAX_UNLUCKY_RECORDINGS = 8
#: Calls of other kinds that pass before a recording is made of them instead of one like those that deviated.
PATIENCE = 8
#: Kinds of calls that deviated are remembered, so many at most.
MAX_SUSPECTS = 256
#: So many runs in a row that only suffer from what earlier runs left behind, and they get fresh arenas; twice as many
#: each time.
AFTERMATHS_BEFORE_RENEWAL = 4
#: So many runs in a row that deviate in more than this share of their requests though the plan grew, and it is learned
#: from nothing: the program has changed.
DEVIATIONS_BEFORE_RESTART = 32
CHANGED_SHARE = 0.1
MAX_RESTARTS = 3
#: The share of the time limit that a plan gets which only grows.
GROWTH_TIME_SHARE = 0.1

#: Where recordings differ in more than sizes, and less than this is served, requests are matched by origin.
MIN_SHARE_BY_SIZE = 0.97

#: How requests are told apart at replay; see :func:`memomalloc.optimize`.
MATCHES = ("auto", "size", "origin")


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How plans are made and armed.

    Attributes:
        planner: a registered planner.
        time_limit_s: wall-clock budget of one planning, in seconds.
        warm_up_calls: calls before the first recording.
        match: one of ``MATCHES``.
        arenas: how the arenas of a plan are kept.
    """

    planner: str = "auto"
    time_limit_s: float = 1.0
    warm_up_calls: int = 2
    match: str = "auto"
    arenas: ArenaSettings = dataclasses.field(default_factory=lambda: ArenaSettings())


def _agree(a: Trace, b: Trace) -> bool:
    """Whether two recordings saw the same events in the same order."""
    columns = ("sizes", "smallest_sizes", "starts", "ends", "escapes")
    return all(np.array_equal(getattr(a, column), getattr(b, column)) for column in columns)


class CallGroup(LockHolder):
    """Calls that share a plan. Changed only inside ``with turn.attempt() as is_mine``, where that is true.

    Calls are warmed up, then recorded: until two recordings in a row agree, or, where shapes or the program's branches
    vary, until there are enough to merge. A group that is armed is recorded again, while it is replayed, when a call
    is larger than those before or deviates; what is new in it is merged into the plan.

    An output has bytes of its own in the plan, so that the program may hold it while it asks for the next. A large one
    that was gone when the next call was recorded shares its bytes instead, as any other buffer, which makes the arena
    smaller. The first run that finds such an output alive deviates, and from then on all have their own.

    Attributes:
        armed: the plan that serves these calls; None while they are learned. Read by all threads.
        wants_attention: some call soon should be recorded; see :meth:`is_due`. Read by all threads.
        turn: taken by the call that learns; others do not wait for it, nor do calls further down its own stack.
        unplannable: why these calls can never be planned; empty if they can.
        last_use: rises with every use.
    """

    def __init__(self, name: str, settings: PlanSettings, budget: object, *, shapes_vary: bool) -> None:
        super().__init__()
        self.armed: ArmedPlan | None = None
        self.wants_attention = False
        self.unplannable = ""
        self.last_use = 0
        self.envelope = Envelope()
        self._name = name
        self._settings = settings
        self._budget = budget
        self._shapes_vary = shapes_vary
        self._warm_up_left = settings.warm_up_calls
        self._recorded: list[tuple[Trace, UInt64Array]] = []  # with the blocks of what outlived it; see Recording
        self._trace: Trace | None = None  # of all recordings, merged; set once armed
        self._given_back: BoolArray | None = None  # of the last recording, when the next began
        self._outputs_share = False  # some that outlive the call have no bytes of their own in the plan
        self._is_sharing_in_vain = False  # a run deviated, maybe since one of those was alive
        self._branches = False  # not every recording had every buffer
        self._by_origin = settings.match == "origin"
        self._num_growths = 0
        self._num_useless_recordings = 0  # in a row
        self._num_unlucky_recordings = 0  # in a row
        self._num_unforeseen = 0  # requests, since the plan was last grown or could not be
        self._num_changed_in_row = 0
        self._suspects: set[Hashable] = set()
        self._patience = 0
        self._num_aftermaths = 0  # in a row
        self._num_renewals = 0
        self._num_restarts = 0
        self._num_deviated = 0  # runs, for the log
        self._learned: LearnedCalls | None = None
        self._seeds: list[Trace] = []

    def renew_locks(self) -> None:
        """Have locks that nobody holds."""
        super().renew_locks()
        self.turn = extension.install().TryLock()

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
        """Let a new group start from recordings made elsewhere, of calls of these sizes; see :meth:`grow_seeds`."""
        self._warm_up_left = 0
        for call in sizes:
            self.envelope.add(call)
        self._seeds = list(traces)

    def grow_seeds(self) -> bool:
        """Merge and plan what the group was seeded with; whether there was anything."""
        if not self._seeds:
            return False
        seeds, self._seeds = self._seeds, []
        self._trace = self._merge(seeds)
        self._arm(0)
        return True

    def adopt(self, learned: LearnedCalls) -> None:
        """Start armed, with what another process has learned."""
        self._warm_up_left = 0
        self.envelope.add(learned.lowest)
        self.envelope.add(learned.highest)
        self._trace = learned.trace
        self._branches = self._by_origin = learned.by_origin
        self._arm(learned.upstream_peak_bytes, learned.plan)

    # --- Learning --------------------------------------------------------------------------------------------------

    def look_back(self) -> None:
        """The next call is about to be recorded: see which outputs of the last one are gone."""
        self._given_back = given_back(self._recorded[-1][1]) if self._recorded else None

    def add(self, recording: Recording, sizes: Sequence[int]) -> None:
        """A call of these sizes was recorded: arm the group, or let its plan grow, if it is time."""
        trace = recording.trace
        self.envelope.add(sizes)
        self._attend()
        if self._trace is not None:
            self._grow(self._trace, trace)
            return
        agreed = bool(self._recorded) and not self._shapes_vary and _agree(self._recorded[-1][0], trace)
        self._recorded.append((trace, recording.blocks))
        share = None
        if agreed:
            self._trace, share = trace, self._given_back
        elif len(self._recorded) >= (MIN_RECORDINGS_OF_VARIOUS if self._shapes_vary else MAX_RECORDINGS):
            self._trace = self._merge([recorded for recorded, _ in self._recorded])
        else:
            return
        self._recorded = []
        self._arm(recording.upstream_peak_bytes, share=share)

    def ran_as_planned_while_recorded(self, sizes: Sequence[int]) -> None:
        """A call of these sizes was recorded, and needs nothing that the plan lacks."""
        self.envelope.add(sizes)
        self._num_unlucky_recordings += 1
        if self._num_unlucky_recordings >= MAX_UNLUCKY_RECORDINGS:
            self._num_unlucky_recordings = self._num_unforeseen = 0
            self._num_useless_recordings += 1
            self._attend()

    def _attend(self) -> None:
        self.wants_attention = False
        self._suspects.clear()

    def _merge(self, traces: Sequence[Trace]) -> Trace:
        merged = merge(traces)
        self._branches = self._branches or any(trace.num_buffers < merged.num_buffers for trace in traces)
        return merged

    def _grow(self, known: Trace, trace: Trace) -> None:
        self._num_unforeseen = self._num_unlucky_recordings = 0
        merged = self._merge([known, trace])
        if _agree(merged, in_slots(known)):
            self._num_useless_recordings += 1
            return
        self._num_useless_recordings = 0
        self._grow_to(merged)

    def widen(self) -> bool:
        """Let the plan grow by the sizes that the last deviating run asked for, without a recording."""
        if self.armed is None or self._trace is None:
            return False
        sizes, smallest_sizes = self._trace.sizes.copy(), self._trace.smallest_sizes.copy()
        misfits, is_all = self.armed.misfits()
        for buffer, asked_bytes in misfits:
            sizes[buffer] = max(sizes[buffer], asked_bytes)
            smallest_sizes[buffer] = min(smallest_sizes[buffer], asked_bytes)
        wider = dataclasses.replace(self._trace, sizes=read_only(sizes), smallest_sizes=read_only(smallest_sizes))
        if _agree(wider, self._trace):
            return False
        self._num_unforeseen = 0
        if is_all:
            self._attend()
        self._grow_to(wider)
        return True

    def _grow_to(self, trace: Trace) -> None:
        self._num_growths += 1
        self._trace = trace
        armed = self.armed
        if self._settings.match == "auto" and self._branches and armed is not None:
            self._by_origin = self._by_origin or armed.served_share() < MIN_SHARE_BY_SIZE
        self._arm(armed.upstream_peak_bytes if armed is not None else 0)

    def _arm(self, upstream_peak_bytes: int, plan: Plan | None = None, *, share: BoolArray | None = None) -> None:
        """Arm a plan, a new one if there is none; in it the buffers in ``share`` have no bytes of their own."""
        assert self._trace is not None
        trace = self._trace
        if share is not None:
            trace = dataclasses.replace(trace, escapes=read_only(trace.escapes & ~share))
        if self._shapes_vary or self._by_origin:
            trace = _with_room(trace, any_smaller=self._by_origin)
        time_limit_s = self._settings.time_limit_s * (GROWTH_TIME_SHARE if self._num_growths else 1.0)
        interrupted = False
        try:
            if plan is None:
                plan, interrupted = plan_until_interrupted(
                    trace, planner=self._settings.planner, time_limit_s=time_limit_s
                )
            self._outputs_share = bool((self._trace.escapes & ~plan.escapes).any())
            self._is_sharing_in_vain = False
            self.armed = ArmedPlan(
                plan,
                origins=trace.origins,
                upstream_peak_bytes=upstream_peak_bytes,
                settings=self._settings.arenas,
                budget=self._budget,
                by_origin=self._by_origin,
            )
        except MemomallocError as error:
            self.give_up(error)
            return
        if self._num_growths == 0:
            extension.install().release_upstream_memory()
        self._learned = LearnedCalls(
            plan,
            self._trace,
            upstream_peak_bytes=upstream_peak_bytes,
            num_threads=torch.get_num_threads(),
            by_origin=self._by_origin,
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
        if interrupted:  # Ctrl-C was meant for the program
            raise KeyboardInterrupt

    def give_up(self, error: Exception) -> None:
        """Let these calls run unplanned from now on, for this reason."""
        self.unplannable = "unplannable"
        self.armed = None
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, MemomallocError) else str(error)
        text = f"calls of {self._name} cannot be planned and run unplanned: {reason}"
        report("unplannable", self._name, text, reason=reason)

    # --- Runs ------------------------------------------------------------------------------------------------------

    def ran_as_planned(self) -> None:
        """A run asked upstream for nothing."""
        self._num_changed_in_row = self._num_aftermaths = 0

    def deviated(self, kind: Hashable, num_unforeseen: int) -> None:
        """A run asked upstream for something. Any thread may say so; counts may be lost, which does no harm.

        Args:
            kind: what calls that are likely to do the same have in common.
            num_unforeseen: requests that went upstream not only for what earlier ones had left behind.
        """
        armed = self.armed
        if armed is None:
            return
        self._num_deviated += 1
        if self._num_deviated.bit_count() == 1:  # the 1st, 2nd, 4th, 8th: a log must not grow with the traffic
            self._report_deviation(armed)
        if self._outputs_share:
            # An output may be held, on bytes that it shares. If it was something else: the plan is to grow anyway.
            self._is_sharing_in_vain = self.wants_attention = True
        if num_unforeseen == 0:
            # Nothing is to be learned from it: a tensor that lives on lies in a place that is not its own.
            self._num_aftermaths += 1
            self.wants_attention = self.wants_attention or self._needs_renewal()
            return
        changed = num_unforeseen > CHANGED_SHARE * armed.num_slots
        self._num_changed_in_row = self._num_changed_in_row + 1 if changed else 0
        self._num_unforeseen += num_unforeseen
        # What was grown often, or in vain, is grown again when that pays.
        cost = COST_OF_GROWTH * (self._num_growths + (1 << min(self._num_useless_recordings, 20)) - 1)
        may_grow = self._num_growths < MAX_GROWTHS
        if self.needs_restart() or (may_grow and self._num_unforeseen >= cost * armed.num_slots):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.add(kind)
            if not self.wants_attention:
                self._patience = PATIENCE
                self.wants_attention = True

    def _report_deviation(self, armed: ArmedPlan) -> None:
        first = next(map(str, armed.deviations()), "")
        text = f"{self._num_deviated} runs of {self._name} deviated from their plan; the last one first here: {first}"
        report("deviated", self._name, text, num_runs=self._num_deviated, first=first)

    def is_due(self, kind: Hashable) -> bool:
        """Whether a call of this kind is the one to be recorded, where the group wants attention."""
        if kind in self._suspects or not self._suspects:
            return True
        self._patience -= 1
        return self._patience < 0

    def _needs_renewal(self) -> bool:
        return self._num_aftermaths >= AFTERMATHS_BEFORE_RENEWAL << self._num_renewals

    def renew_arenas(self) -> bool:
        """Have fresh arenas, if too much was left behind in those there are. These go with their last tensor.

        The plan is the same, unless outputs that share their bytes are held: it is made anew then, and they do not.
        """
        if self.armed is None or self._trace is None:
            return False
        if self._is_sharing_in_vain:
            self._grow_to(self._trace)
            return True
        if not self._needs_renewal():
            return False
        self._num_aftermaths = 0
        self._num_renewals += 1
        self.armed = self.armed.renewed()
        return True

    def needs_restart(self) -> bool:
        """Whether the program has changed for good, so that what was learned of it is of no use."""
        return self._num_changed_in_row >= DEVIATIONS_BEFORE_RESTART and self._num_restarts < MAX_RESTARTS

    def restart(self) -> None:
        """Learn from nothing. The caller has taken care of ``armed``."""
        text = f"{self._name} deviated {self._num_changed_in_row} times in a row: learning anew"
        report("restarted", self._name, text, num_runs=self._num_changed_in_row)
        self.armed = None
        self._trace = None
        self._recorded = []
        self.envelope = Envelope()
        self._branches = False
        self._by_origin = self._settings.match == "origin"
        self._num_growths = self._num_useless_recordings = self._num_unlucky_recordings = 0
        self._num_unforeseen = self._num_changed_in_row = self._num_aftermaths = 0
        self._suspects.clear()
        self._num_restarts += 1


def _with_room(trace: Trace, *, any_smaller: bool) -> Trace:
    """The same with larger sizes where sizes vary, and with no smallest size there: for calls yet to come.

    Args:
        trace: of all recordings, merged.
        any_smaller: there is no smallest size anywhere; what tells requests apart is who asks.
    """
    varies = trace.smallest_sizes < trace.sizes
    sizes = np.where(varies, (trace.sizes * ROOM_TO_GROW).astype(np.int64), trace.sizes)
    smallest_sizes = np.where(varies | any_smaller, np.minimum(trace.sizes, 1), trace.smallest_sizes)
    return dataclasses.replace(trace, sizes=sizes, smallest_sizes=smallest_sizes)
