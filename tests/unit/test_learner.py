"""The learner is a table: what it says in each state, and the page of the documents that shows it."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from memomalloc.runtime.learning.earnings import (
    MAX_COMPARISONS,
    MIN_COMPARISONS,
    PROBES_PER_COMPARISON,
    RUNS_PER_COMPARISON,
    TIMED_PER_COMPARISON,
)
from memomalloc.runtime.learning.learner import (
    AFTERMATHS_BEFORE_RENEWAL,
    BEFORE_THE_CALL,
    CALLS_TO_WAIT,
    DEVIATIONS_BEFORE_RESTART,
    MAX_GROWTHS,
    MAX_MISSES,
    MAX_RESTARTS,
    TABLE,
    Event,
    Learner,
    Order,
    State,
)

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"
BEGIN, END = "<!-- The table, from the code: -->\n", "<!-- The end of the table. -->"


def _armed(warm_up_calls: int = 1, *, keep_plans: bool = False) -> Learner:
    """A learner whose plan is confirmed."""
    learner = Learner(warm_up_calls, keep_plans=keep_plans)
    for _ in range(warm_up_calls):
        assert learner.next_order() is Order.RUN
    assert learner.next_order() is Order.RECORD
    learner.recorded(is_new=True)
    _plan(learner)
    assert learner.next_order() is Order.REPLAY
    learner.ran_as_planned()
    assert learner.state is State.ARMED
    return learner


def _plan(learner: Learner) -> None:
    assert learner.next_order() is Order.PLAN
    learner.planned()


def _deviate(learner: Learner, share: float, kind: object = "a") -> None:
    learner.deviated(kind, share)


# --- The table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_every_state_knows_what_to_do_with_a_call(state: State) -> None:
    for event in (Event.CALL, Event.LARGER_CALL):
        _, order = TABLE[state][event]
        assert order is not None


def test_every_state_event_and_order_is_used() -> None:
    rows = [(state, event, *result) for state, events in TABLE.items() for event, result in events.items()]
    assert {row[0] for row in rows} == set(State)
    assert {row[1] for row in rows} == set(Event)
    assert {row[2] for row in rows} == set(State)
    assert {row[3] for row in rows} - {None} == set(Order)


def test_every_state_can_be_reached_and_only_two_are_for_good() -> None:
    reached = {State.WARMING_UP}
    while more := {after for state in reached for after, _ in TABLE[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    for_good = {state for state, events in TABLE.items() if {after for after, _ in events.values()} == {state}}
    assert for_good == {State.RETIRED, State.UNPLANNABLE}


def test_a_failure_is_known_wherever_something_may_fail() -> None:
    for state, events in TABLE.items():
        if any(order in BEFORE_THE_CALL or order is Order.RECORD for _, order in events.values()):
            assert Event.FAILED in events or state is State.CHANGED


# --- The way to a plan ---------------------------------------------------------------------------------------------


def test_the_third_call_is_replayed() -> None:
    learner = Learner(1)
    assert learner.next_order() is Order.RUN
    assert learner.next_order() is Order.RECORD
    learner.recorded(is_new=True)
    assert learner.next_order() is Order.PLAN
    learner.planned()
    assert learner.next_order() is Order.REPLAY


@pytest.mark.parametrize("warm_up_calls", [0, 1, 5])
def test_so_many_calls_warm_up(warm_up_calls: int) -> None:
    learner = Learner(warm_up_calls)
    assert [learner.next_order() for _ in range(warm_up_calls)] == [Order.RUN] * warm_up_calls
    assert learner.next_order() is Order.RECORD


def test_a_recording_that_was_not_completed_is_made_again() -> None:
    learner = Learner(0)
    assert [learner.next_order() for _ in range(3)] == [Order.RECORD] * 3


def test_the_first_replay_is_the_second_opinion() -> None:
    learner = _armed()
    assert not learner.wants_attention
    hasty = Learner(0)
    hasty.next_order()
    hasty.recorded(is_new=True)
    _plan(hasty)
    _deviate(hasty, 0.5)  # it was made of a call in which something was still prepared
    assert hasty.next_order() is Order.FORGET
    hasty.forgotten()
    assert hasty.next_order() is Order.RECORD
    hasty.recorded(is_new=True)
    _plan(hasty)
    _deviate(hasty, 0.5)  # that was no matter of warming up
    assert hasty.state is State.GROWING


def test_what_was_learned_elsewhere_is_replayed_at_once() -> None:
    learner = Learner(2)
    learner.adopted()
    assert learner.next_order() is Order.REPLAY


def test_recordings_of_others_are_planned_at_once() -> None:
    learner = Learner(2)
    learner.seeded()
    assert learner.next_order() is Order.PLAN
    warm = Learner(2)
    warm.warmed_up_elsewhere()
    assert warm.next_order() is Order.RECORD


def test_what_cannot_be_planned_runs_as_it_is_for_good() -> None:
    for learner in (Learner(2), Learner(0), _armed()):
        learner.failed()
        _deviate(learner, 1.0)
        assert {learner.next_order(is_larger=larger) for larger in (False, True, False)} == {Order.RUN}


# --- Growth --------------------------------------------------------------------------------------------------------


def test_a_call_like_the_one_that_deviated_is_recorded() -> None:
    learner = _armed()
    _deviate(learner, 0.05, "a")
    assert not learner.is_due("b")
    assert learner.is_due("a")
    assert learner.next_order() is Order.WIDEN
    learner.widened(is_wider=False)
    assert learner.next_order() is Order.RECORD
    learner.recorded(is_new=True)
    _plan(learner)
    assert learner.next_order() is Order.REPLAY


def test_others_are_recorded_if_it_does_not_come_again() -> None:
    learner = _armed()
    _deviate(learner, 0.05, "a")
    assert [learner.is_due("b") for _ in range(CALLS_TO_WAIT)] == [False] * (CALLS_TO_WAIT - 1) + [True]


def test_sizes_alone_need_no_recording() -> None:
    learner = _armed()
    _deviate(learner, 0.05)
    assert learner.next_order() is Order.WIDEN
    learner.widened(is_wider=True)
    _plan(learner)
    assert learner.next_order() is Order.REPLAY


def test_growth_becomes_rare() -> None:
    learner = _armed()
    runs_before = []
    for growth in range(MAX_GROWTHS + 1):
        runs = 0
        while learner.state is not State.GROWING and runs < 100:
            _deviate(learner, 0.05, growth)
            runs += 1
        if runs == 100:
            break
        runs_before.append(runs)
        assert learner.next_order() is Order.WIDEN
        learner.widened(is_wider=True)
        _plan(learner)
    assert runs_before[0] == 1
    assert runs_before == sorted(runs_before)
    assert runs_before[20] >= 40


def test_recordings_in_vain_make_growth_rarer_still() -> None:
    learner = _armed()
    runs_before = []
    for _ in range(8):
        runs = 0
        while learner.state is not State.GROWING:
            _deviate(learner, 0.05)
            runs += 1
        runs_before.append(runs)
        learner.next_order()
        learner.widened(is_wider=False)
        learner.next_order()
        learner.recorded(is_new=False)
        assert learner.state is State.ARMED
    assert all(later >= 1.8 * earlier for earlier, later in pairwise(runs_before[2:]))


def test_so_many_recordings_may_meet_none_of_those_that_deviate() -> None:
    learner = _armed()
    _deviate(learner, 0.05)
    for _ in range(MAX_MISSES):
        assert learner.state is State.GROWING
        learner.next_order()
        learner.widened(is_wider=False)
        assert learner.next_order() is Order.RECORD
        learner.recorded(is_new=False, as_planned=True)
    assert learner.state is State.ARMED


def test_a_larger_call_is_recorded_whatever_else_is_in_hand() -> None:
    learner = _armed()
    assert learner.next_order(is_larger=True) is Order.RECORD
    learner.recorded(is_new=False, as_planned=True)  # nothing was in vain: nothing had deviated
    assert learner.state is State.ARMED
    _deviate(learner, 0.001)
    assert learner.next_order(is_larger=True) is Order.RECORD


# --- Outputs, what is left behind, programs that change --------------------------------------------------------------


def test_what_runs_leave_behind_is_left_behind_in_the_end_and_less_and_less_often() -> None:
    learner = _armed()
    for renewal in range(4):
        for run in range(AFTERMATHS_BEFORE_RENEWAL << renewal):
            assert learner.state is State.ARMED, run
            _deviate(learner, 0.0)
        assert learner.next_order() is Order.RENEW
        learner.renewed()
    _deviate(learner, 0.0)
    learner.ran_as_planned()
    assert learner.next_order() is Order.REPLAY


def test_a_program_that_changed_for_good_is_learned_anew_and_not_for_ever() -> None:
    learner = _armed()
    restarts = 0
    for _ in range(20 * DEVIATIONS_BEFORE_RESTART):
        _deviate(learner, 0.5)
        if learner.state is State.CHANGED:
            restarts += 1
            assert learner.next_order() is Order.FORGET
            learner.forgotten()
            assert learner.next_order() is Order.RECORD
            learner.recorded(is_new=True)
            _plan(learner)
            learner.ran_as_planned()
    assert restarts == MAX_RESTARTS


def test_one_run_as_planned_shows_that_the_program_is_the_same() -> None:
    learner = _armed()
    for _ in range(4 * DEVIATIONS_BEFORE_RESTART):
        for _ in range(DEVIATIONS_BEFORE_RESTART - 1):
            _deviate(learner, 0.5)
        learner.ran_as_planned()
    assert learner.state is not State.CHANGED


# --- A plan earns its place ----------------------------------------------------------------------------------------


def _compare(learner: Learner, planned_s: float, unplanned_s: float, *, saves_memory: bool = False) -> int:
    """One comparison; how many runs went before it."""
    runs = 0
    while learner.state is not State.TIMING:
        learner.ran_as_planned()
        runs += 1
        if runs > 10 * RUNS_PER_COMPARISON:
            return runs
    for _ in range(TIMED_PER_COMPARISON):
        assert learner.next_order() is Order.TIME
        learner.timed(planned_s)
    for _ in range(PROBES_PER_COMPARISON):
        assert learner.next_order() is Order.PROBE
        order = learner.probed(unplanned_s, saves_memory=saves_memory)
    assert (order is Order.RETIRE) is (learner.state is State.RETIRED)
    return runs


def test_a_plan_that_costs_time_is_retired() -> None:
    learner = _armed()
    for _ in range(MIN_COMPARISONS):
        assert learner.state is State.ARMED
        _compare(learner, 1.1, 1.0)
    assert learner.state is State.RETIRED
    assert learner.speed == pytest.approx(1 / 1.1)
    assert learner.next_order(is_larger=True) is Order.RUN
    assert RUNS_PER_COMPARISON >= 1000 * PROBES_PER_COMPARISON


@pytest.mark.parametrize(
    ("planned_s", "unplanned_s", "saves_memory"),
    [(1.1, 1.0, True), (1.01, 1.0, False), (1.0, 1.0, False), (0.9, 1.0, False)],
    ids=["saves_memory", "within_two_percent", "equal", "faster"],
)
def test_any_other_plan_is_kept_and_not_compared_for_ever(
    planned_s: float, unplanned_s: float, saves_memory: bool
) -> None:
    learner = _armed()
    for _ in range(MAX_COMPARISONS):
        if _compare(learner, planned_s, unplanned_s, saves_memory=saves_memory) > 9 * RUNS_PER_COMPARISON:
            break
    assert _compare(learner, planned_s, unplanned_s) > 9 * RUNS_PER_COMPARISON
    assert learner.next_order() is Order.REPLAY


def test_a_clear_gain_is_soon_left_alone() -> None:
    learner = _armed()
    for _ in range(MIN_COMPARISONS):
        _compare(learner, 0.5, 1.0)
    assert _compare(learner, 0.5, 1.0) > 9 * RUNS_PER_COMPARISON


def test_noise_alone_retires_no_plan() -> None:
    learner = _armed()
    for comparison in range(MAX_COMPARISONS):
        _compare(learner, 1.0, (0.5, 1.5)[comparison % 2])
    assert learner.state is State.ARMED


def test_a_plan_that_grew_is_judged_anew() -> None:
    learner = _armed()
    for _ in range(MIN_COMPARISONS - 1):
        _compare(learner, 1.1, 1.0)
    _deviate(learner, 0.05)
    learner.next_order()
    learner.widened(is_wider=True)
    _plan(learner)
    learner.ran_as_planned()
    _compare(learner, 1.1, 1.0)
    assert learner.state is State.ARMED


def test_plans_are_kept_whatever_they_gain_where_that_is_asked_for() -> None:
    learner = _armed(keep_plans=True)
    learner.ran_as_planned(100 * RUNS_PER_COMPARISON)
    assert learner.next_order() is Order.REPLAY


# --- The page ------------------------------------------------------------------------------------------------------


def table_as_markdown() -> str:
    """The table of the learner, as the page shows it."""
    lines = ["", "| state | what it means | event | next state | order |", "|---|---|---|---|---|"]
    for state, events in TABLE.items():
        name, meaning = f"**{state.name}**", state.value
        for event, (after, order) in events.items():
            if event is Event.LARGER_CALL and events[Event.CALL] == (after, order):
                continue
            changes = f"{after.name}" if after is not state else ""
            lines.append(f"| {name} | {meaning} | {event.value} | {changes} | {order.value if order else ''} |")
            name = meaning = ""
    return "\n".join([*lines, "", ""])


def test_the_page_shows_the_table() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == table_as_markdown(), f"docs/learning.md is not up to date: run `python {sys.argv[0]}`"


if __name__ == "__main__":
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + table_as_markdown() + END + rest.partition(END)[2])
