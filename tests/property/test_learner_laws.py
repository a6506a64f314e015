"""Ten thousand programs that do what they like: laws that the learner's orders obey whatever happens."""

from __future__ import annotations

import random

import pytest

from memomalloc.runtime.learning.earnings import PROBES_PER_COMPARISON, RUNS_PER_COMPARISON
from memomalloc.runtime.learning.learner import (
    BEFORE_THE_CALL,
    MAX_GROWTHS,
    MAX_MISSES,
    MAX_RESTARTS,
    Learner,
    Order,
    State,
)

NUM_HISTORIES = 10_000
NUM_CALLS = 60
#: What orders there may be before one call: forget, or renew, or widen and plan.
MAX_BEFORE_A_CALL = 3


class History:
    """A program at random, whose calls ask the learner, and an executor that carries its orders out.

    It knows for itself what makes sense: no replay without a plan, no plan without a recording.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.learner = Learner(self.random.choice((0, 1, 3)), keep_plans=self.random.random() < 0.3)
        self.has_recording = self.has_plan = False
        self.num_calls = self.num_recorded = self.num_probes = self.num_restarts = self.num_larger = 0
        self.is_retired = False
        # How this program is: some deviate always, some never, some raise, some cannot be planned.
        self.deviates, self.raises, self.fails, self.larger = (
            self.random.choice((0.0, 0.0, rarely, often))
            for rarely, often in ((0.1, 1.0), (0.1, 0.5), (0.01, 0.2), (0.1, 0.5))
        )

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _run_ends(self) -> None:
        if self._chance(self.deviates):
            share = self.random.choice((0.0, 0.001, 0.05, 0.5, 2.0))
            self.learner.deviated(self.random.randrange(4), share)
        else:
            self.learner.ran_as_planned(self.random.choice((1, 1, RUNS_PER_COMPARISON)))

    def call(self) -> None:
        self.num_calls += 1
        learner = self.learner
        needs_nothing = not (learner.wants_attention and learner.is_due(self.random.randrange(4)))
        if self.has_plan and needs_nothing and not self._chance(self.larger):
            self._run_ends()
            return
        is_larger = self._chance(self.larger)
        self.num_larger += is_larger
        orders = 0
        while (order := learner.next_order(is_larger=is_larger)) in BEFORE_THE_CALL:
            orders += 1
            assert orders <= MAX_BEFORE_A_CALL
            self._before_the_call(order)
        self._carry_out(order)

    def _before_the_call(self, order: Order) -> None:
        learner = self.learner
        if order is Order.PLAN:
            assert self.has_recording
            if self._chance(self.fails):
                learner.failed()
                self.has_plan = False
            else:
                self.has_plan = True
                learner.planned()
        elif order is Order.WIDEN:
            assert self.has_plan
            learner.widened(is_wider=self._chance(0.3))
        elif order is Order.RENEW:
            assert self.has_plan
            learner.renewed()
        else:
            assert order is Order.FORGET
            self.has_plan = self.has_recording = False
            self.num_restarts += 1
            learner.forgotten()

    def _carry_out(self, order: Order) -> None:
        learner = self.learner
        if self.is_retired:
            assert order is Order.RUN
        if order is Order.REPLAY:
            assert self.has_plan
            self._run_ends()
        elif order is Order.RECORD:
            if self._chance(self.raises):
                return  # the program raised: nothing is told
            is_new = not self.has_recording or self._chance(0.5)
            learner.recorded(is_new=is_new, as_planned=self.has_plan and not is_new and self._chance(0.5))
            self.has_recording = True
            self.num_recorded += 1
        elif order is Order.TIME:
            assert self.has_plan
            if self._chance(self.raises):
                return
            self._run_ends()
            learner.timed(self.random.uniform(0.9, 1.3))
        elif order is Order.PROBE:
            assert self.has_plan
            self.num_probes += 1
            if learner.probed(self.random.uniform(0.8, 1.2), saves_memory=self._chance(0.1)) is Order.RETIRE:
                self.has_plan = False
                self.is_retired = True
        else:
            assert order is Order.RUN
            assert learner.state is State.RETIRED or learner.state is State.UNPLANNABLE or not self.has_recording


@pytest.mark.parametrize("part", range(10))
def test_no_history_makes_the_learner_say_what_its_state_forbids(part: int) -> None:
    ends = set()
    for seed in range(part * NUM_HISTORIES // 10, (part + 1) * NUM_HISTORIES // 10):
        history = History(seed)
        for _ in range(NUM_CALLS):
            history.call()
        assert history.num_restarts <= MAX_RESTARTS
        ends.add(history.learner.state)
    assert State.RETIRED in ends  # the histories do go everywhere
    assert State.UNPLANNABLE in ends
    assert State.ARMED in ends


@pytest.mark.parametrize("seed", range(40))
def test_recordings_are_bounded_however_long_a_program_runs(seed: int) -> None:
    history = History(seed)
    history.deviates, history.raises = 1.0, 0.0
    for _ in range(20_000):
        history.call()
    bound = (MAX_RESTARTS + 1) * (MAX_GROWTHS + 1) * (MAX_MISSES + 1)
    assert history.num_recorded <= bound
    recorded = history.num_recorded
    for _ in range(2000):
        history.call()
    assert history.num_recorded - recorded <= 2000 * 0.02


@pytest.mark.parametrize("seed", range(20))
def test_at_most_one_call_in_a_thousand_runs_without_its_plan_to_be_timed(seed: int) -> None:
    history = History(seed)
    history.deviates = history.raises = history.fails = history.larger = 0.0
    history.random.choice = lambda choices: choices[0]  # type: ignore[method-assign]  # each run is told of by itself
    for _ in range(40_000):
        history.call()
    assert history.num_probes <= history.num_calls / 1000 + PROBES_PER_COMPARISON
