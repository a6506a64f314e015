"""Calls that share a plan: what is known of them, and the plan that is made of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch

from memomalloc.data.columns import read_only
from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners.merging import in_slots, is_told_by_size, merge
from memomalloc.planners.planning import plan_until_interrupted
from memomalloc.runtime import extension
from memomalloc.runtime.events import report
from memomalloc.runtime.faults import is_of_the_program
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.learning.allowance import Cost, Measurement, allowance
from memomalloc.runtime.learning.envelope import ROOM_TO_GROW, Envelope
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.learning.learner import BEFORE_THE_CALL, Learner, Order
from memomalloc.runtime.learning.recorder import Recording
from memomalloc.runtime.memory.armed_plan import ALIGNMENT_BYTES, ArenaSettings, ArmedPlan
from memomalloc.runtime.memory.statistics import CallCounts

#: The share of the time limit that a plan gets which only grows.
GROWTH_TIME_SHARE = 0.1

#: Where recordings differ in more than sizes, and less than this is served, requests are told apart in another way.
MIN_SHARE_BY_SIZE = 0.99

#: How requests are told apart at replay; see :func:`memomalloc.optimize`.
MATCHES = ("auto", "size", "origin")

#: A plan saves memory worth having if it saves as much, and this share of what upstream needs.
MIN_SAVED_BYTES = 4 * 2**20
MIN_SAVED_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How plans are made and armed.

    Attributes:
        planner: a registered planner.
        time_limit_s: wall-clock budget of one planning, in seconds.
        warm_up_calls: calls before the first recording.
        match: one of ``MATCHES``.
        arenas: how the arenas of a plan are kept.
        keep_plans: no plan is retired because calls are slower with it.
        learning_share: the share of the process's CPU time that learning may take; None: whatever it takes.
    """

    planner: str = "auto"
    time_limit_s: float = 1.0
    warm_up_calls: int = 1
    match: str = "auto"
    arenas: ArenaSettings = dataclasses.field(default_factory=lambda: ArenaSettings())
    keep_plans: bool = False
    learning_share: float | None = None


def _agree(a: Trace, b: Trace) -> bool:
    """Whether two recordings saw the same events in the same order."""
    columns = ("sizes", "smallest_sizes", "starts", "ends", "escapes")
    return all(np.array_equal(getattr(a, column), getattr(b, column)) for column in columns)


@contextmanager
def timed(tell: Callable[[float], None]) -> Iterator[None]:
    """Tell how long a block took, in seconds, if it ends well."""
    begin_s = time.perf_counter()
    yield
    elapsed_s = time.perf_counter() - begin_s
    try:
        tell(elapsed_s)
    except Exception as error:  # the call is done, and its result is right
        if is_of_the_program(error):
            raise


class CallGroup(LockHolder):
    """Calls that share a plan.

    What happens when is the learner's to say; here it is done. Changed only inside ``with turn.attempt() as is_mine``,
    where that is true; only :meth:`ran_as_planned` and :meth:`deviated` are for any thread.

    Attributes:
        armed: the plan that serves these calls; None while there is none. Read by all threads.
        wants_attention: some call soon should ask for orders; see :meth:`is_due`. Read by all threads.
        resting: why these calls run unplanned for good; empty if they do not. Read by all threads.
        turn: taken by the call that learns; others do not wait for it, nor do calls further down its own stack.
        last_use: rises with every use.
        envelope: the sizes of what was recorded.
        cost_of_call: of one that ran as it is; None where that is not known.
    """

    def __init__(self, name: str, settings: PlanSettings, budget: object, counts: CallCounts) -> None:
        super().__init__()
        self.armed: ArmedPlan | None = None
        self.resting = ""
        self.last_use = 0
        self.cost_of_call: Cost | None = None
        self.envelope = Envelope()
        self._learner = Learner(settings.warm_up_calls, keep_plans=settings.keep_plans)
        self.wants_attention = True
        self._name = name
        self._settings = settings
        self._budget = budget
        self._counts = counts
        self._trace: Trace | None = None  # of all recordings, merged
        self._upstream_peak_bytes = 0
        self._branches = False  # not every recording had every buffer
        self._only_known_sizes = False  # no request is taken that is smaller than was recorded
        self._by_origin = settings.match == "origin"
        self._num_plans = 0
        self._num_deviated = 0  # runs, for the log
        self._learned: LearnedCalls | None = None

    def renew_locks(self) -> None:
        """Have locks that nobody holds."""
        super().renew_locks()
        self.turn = extension.install().TryLock()

    def is_served(self, kind: Hashable, sizes: Sequence[int]) -> bool:
        """Whether there is nothing to do with a call of this kind but to replay it."""
        return not (self.wants_attention and self.is_due(kind)) and self.envelope.covers(sizes)

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
        """What was recorded, merged; None before."""
        return self._trace

    # --- Beginnings ------------------------------------------------------------------------------------------------

    def seed(self, traces: Sequence[Trace], sizes: Sequence[Sequence[int]]) -> None:
        """Let a new group, calls of which have run before, start from recordings of calls of these sizes."""
        for call in sizes:
            self.envelope.add(call)
        if traces:
            self._trace = self._merge(traces)
            self._learner.seeded()
        else:
            self._learner.warmed_up_elsewhere()

    def adopt(self, learned: LearnedCalls) -> None:
        """Start armed, with what another process has learned."""
        self.envelope.add(learned.lowest)
        self.envelope.add(learned.highest)
        self._trace = learned.trace
        self._branches = self._by_origin = learned.by_origin
        self._upstream_peak_bytes = learned.upstream_peak_bytes
        if self._arm(learned.plan):
            self._report(self._learner.adopted)

    def rest(self, reason: str) -> None:
        """Let these calls run unplanned from now on."""
        self._learner.failed()
        self.let_go()
        self.resting = reason
        self.wants_attention = False

    # --- What learning costs ---------------------------------------------------------------------------------------

    def may_learn(self) -> bool:
        """Whether learning may take more time now."""
        share = self._settings.learning_share
        if share is None or self._learner.warms_up:
            return True
        return self.cost_of_call is not None and allowance.covers_lesson(share, self.cost_of_call)

    @contextmanager
    def running_as_it_is(self) -> Iterator[None]:
        """A call that runs as it is, so that it shows what calls cost, where that counts."""
        if self._settings.learning_share is None:
            yield
            return
        with Measurement() as measurement:
            yield
        cost = measurement.cost
        known = self.cost_of_call.num_requests if self.cost_of_call is not None else 0
        # Some of its requests may have come from spare memory, unlike those of the very first call.
        self.cost_of_call = dataclasses.replace(cost, num_requests=max(cost.num_requests, known))

    @contextmanager
    def lesson(self) -> Iterator[None]:
        """A call that is recorded, with all that comes of it."""
        if self._settings.learning_share is None:
            yield
            return
        with allowance.lesson(self.cost_of_call or Cost()):
            yield

    # --- Orders ----------------------------------------------------------------------------------------------------

    def is_due(self, kind: Hashable) -> bool:
        """Whether a call of this kind should ask for orders, where the group wants attention."""
        return self._learner.is_due(kind)

    def prepare(self, sizes: Sequence[int]) -> Order:
        """Do what is to be done before a call of these sizes; what is to be done with the call itself."""
        is_larger = not self.envelope.covers(sizes)
        try:
            while (order := self._learner.next_order(is_larger=is_larger)) in BEFORE_THE_CALL:
                with allowance.work():
                    self._before_the_call[order](self)
                is_larger = not self.envelope.covers(sizes)
            if order is Order.RECORD and (self.armed is None or is_larger):
                # It shows what the process grows by; what earlier calls left in upstream would lie below it.
                extension.install().release_home()
                if self._trace is None:
                    extension.install().release_upstream_memory()
        except Exception as error:
            if is_of_the_program(error):
                raise
            self.give_up(error)
            return Order.RUN
        finally:
            self._attend()
        return order

    def _plan(self) -> None:
        if self._arm():
            self._learner.planned()

    def _widen(self) -> None:
        """Let the plan grow by the sizes that the last deviating run asked for."""
        assert self._trace is not None
        misfits = self.armed.misfits()[0] if self.armed is not None else []
        sizes, smallest_sizes = self._trace.sizes.copy(), self._trace.smallest_sizes.copy()
        for buffer, asked_bytes in misfits:
            sizes[buffer] = max(sizes[buffer], asked_bytes)
            smallest_sizes[buffer] = min(smallest_sizes[buffer], asked_bytes)
        wider = dataclasses.replace(self._trace, sizes=read_only(sizes), smallest_sizes=read_only(smallest_sizes))
        is_wider = not _agree(wider, self._trace)
        if is_wider:
            self._trace = wider
        self._learner.widened(is_wider=is_wider)

    def _renew(self) -> None:
        """Have fresh memory. What there was goes with its last tensor."""
        if self.armed is not None:
            self._exchange(self.armed.renewed())
        self._learner.renewed()

    def _forget(self) -> None:
        text = f"{self._name} does something else than its plan foresees, run after run: learning anew"
        report("restarted", self._name, text)
        self.let_go()
        self._trace = None
        self.envelope = Envelope()
        self._branches = False
        self._only_known_sizes = False
        self._by_origin = self._settings.match == "origin"
        self._learner.forgotten()

    _before_the_call: ClassVar = {Order.PLAN: _plan, Order.WIDEN: _widen, Order.RENEW: _renew, Order.FORGET: _forget}

    # --- What came of calls ----------------------------------------------------------------------------------------

    def recorded(self, recording: Recording, sizes: Sequence[int], *, as_planned: bool) -> None:
        """A call of these sizes was recorded; it was replayed as well, and asked for nothing new, or it was not."""
        self.envelope.add(sizes)
        is_new = not as_planned and self._learn_from(recording)
        self._report(lambda: self._learner.recorded(is_new=is_new, as_planned=as_planned))

    def _learn_from(self, recording: Recording) -> bool:
        trace, known = recording.trace, self._trace
        if known is None:
            self._trace = trace
            self._upstream_peak_bytes = recording.upstream_peak_bytes
            return True
        merged = self._merge([known, trace])
        is_new = not _agree(merged, in_slots(known))
        has_smaller = merged.num_buffers == known.num_buffers and bool(
            np.any(merged.smallest_sizes < known.smallest_sizes)
        )
        if is_new:
            self._trace = merged
        return self._match_otherwise_if_that_helps(trace, has_smaller=has_smaller) or is_new

    def timed(self, planned_s: float) -> None:
        """A replayed call took so long."""
        self._report(lambda: self._learner.timed(planned_s))

    def probed(self, unplanned_s: float) -> None:
        """A call without the plan took so long."""
        armed = self.armed
        if armed is None:
            return
        saved_bytes = armed.upstream_peak_bytes - armed.plan.arena_bytes
        saves = saved_bytes >= max(MIN_SAVED_BYTES, MIN_SAVED_SHARE * armed.upstream_peak_bytes)
        if self._learner.probed(unplanned_s, saves_memory=saves) is Order.RETIRE:
            self.resting = "retired"
            self.let_go()
            speed = self._learner.speed
            text = (
                f"calls of {self._name} take {1 / max(speed, 1e-9) - 1:.0%} longer with their plan, which saves no "
                "memory worth it: they run unplanned from now on (keep_plans=True keeps such plans)"
            )
            report("retired", self._name, text, speed=speed)
        self._attend()

    def ran_as_planned(self, num_runs: int = 1) -> None:
        """So many runs asked upstream for nothing. Any thread may say so."""
        self._learner.ran_as_planned(num_runs)
        if self._learner.wants_attention is not self.wants_attention:
            self._attend()

    def deviated(self, kind: Hashable, num_unforeseen: int) -> None:
        """A run asked upstream for something. Any thread may say so.

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
        try:
            self._learner.deviated(kind, num_unforeseen / max(armed.num_slots, 1))
        except Exception as error:  # an argument cannot be hashed any more; the call is done, and its result is right
            if is_of_the_program(error):
                raise
        self._attend()

    def _report(self, tell: Callable[[], None]) -> None:
        tell()
        self._attend()

    def _attend(self) -> None:
        self.wants_attention = self._learner.wants_attention and not self.resting

    def give_up(self, error: Exception) -> None:
        """Let these calls run unplanned from now on, for this reason."""
        self.rest("unplannable")
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, MemomallocError) else str(error)
        text = f"calls of {self._name} cannot be planned and run unplanned: {reason}"
        report("unplannable", self._name, text, reason=reason)

    def _report_deviation(self, armed: ArmedPlan) -> None:
        first = next(map(str, armed.deviations()), "")
        text = f"{self._num_deviated} runs of {self._name} deviated from their plan; the last one first here: {first}"
        report("deviated", self._name, text, num_runs=self._num_deviated, first=first)

    # --- Plans -----------------------------------------------------------------------------------------------------

    def _merge(self, traces: Sequence[Trace]) -> Trace:
        merged = merge(traces)
        self._branches = self._branches or any(trace.num_buffers < merged.num_buffers for trace in traces)
        return merged

    def _match_otherwise_if_that_helps(self, trace: Trace, *, has_smaller: bool) -> bool:
        """Whether requests are told apart in another way from now on.

        Args:
            trace: of the last recording, which is a part of what is known by now.
            has_smaller: it had buffers that were smaller than any that was known.
        """
        assert self._trace is not None
        if not self._branches or self.armed is None or self.armed.served_share() >= MIN_SHARE_BY_SIZE:
            return False
        # By size as long as that will do: following who asks takes time at each operator.
        known_before = self._only_known_sizes
        if (has_smaller or not known_before) and is_told_by_size(trace, self._trace, ALIGNMENT_BYTES):
            self._only_known_sizes = True
            return not known_before
        if self._by_origin or self._settings.match != "auto":
            return False
        self._by_origin = True
        return True

    def let_go(self) -> None:
        """Drop the plan. Runs in progress and tensors that live are not touched."""
        self._exchange(None)

    def _exchange(self, armed: ArmedPlan | None) -> None:
        # At once: an exception of a signal handler may come between any two lines.
        before, self.armed = self.armed, armed
        if before is not None:
            self._counts.add_retired(before.replayed())

    def _time_limit_s(self, *, is_first: bool) -> float:
        limit_s = self._settings.time_limit_s * (1.0 if is_first else GROWTH_TIME_SHARE)
        share = self._settings.learning_share
        return limit_s if share is None else max(0.0, min(limit_s, allowance.left_s(share)))

    def _arm(self, plan: Plan | None = None) -> bool:
        """Arm a plan, a new one if there is none; whether that could be done.

        Raises:
            KeyboardInterrupt: it is armed, but Ctrl-C came meanwhile.
        """
        assert self._trace is not None
        trace = _with_room(self._trace, only_known_sizes=self._only_known_sizes, any_smaller=self._by_origin)
        is_first = self._num_plans == 0
        interrupted = False
        try:
            if plan is None:
                plan, interrupted = plan_until_interrupted(
                    trace,
                    planner=self._settings.planner,
                    time_limit_s=self._time_limit_s(is_first=is_first),
                )
            armed = ArmedPlan(
                plan,
                origins=trace.origins,
                upstream_peak_bytes=self._upstream_peak_bytes,
                settings=self._settings.arenas,
                budget=self._budget,
                by_origin=self._by_origin,
            )
        except MemomallocError as error:
            self.give_up(error)
            return False
        self._exchange(armed)
        self._num_plans += 1
        if is_first:
            extension.install().release_upstream_memory()
        self._learned = LearnedCalls(
            plan,
            self._trace,
            upstream_peak_bytes=self._upstream_peak_bytes,
            num_threads=torch.get_num_threads(),
            by_origin=self._by_origin,
        )
        event = "armed" if is_first else "grew"
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
            self._learner.planned()
            raise KeyboardInterrupt
        return True


def _with_room(trace: Trace, *, only_known_sizes: bool, any_smaller: bool) -> Trace:
    """The same with larger sizes where sizes vary, and with no smallest size there: for calls yet to come.

    Args:
        trace: of all recordings, merged.
        only_known_sizes: the smallest sizes stay: other buffers that are smaller would be taken for these.
        any_smaller: there is no smallest size anywhere; what tells requests apart is who asks.
    """
    varies = trace.smallest_sizes < trace.sizes
    sizes = np.where(varies, (trace.sizes * ROOM_TO_GROW).astype(np.int64), trace.sizes)
    may_shrink = any_smaller | (varies & (not only_known_sizes))
    smallest_sizes = np.where(may_shrink, np.minimum(trace.sizes, 1), trace.smallest_sizes)
    return dataclasses.replace(trace, sizes=sizes, smallest_sizes=smallest_sizes)
