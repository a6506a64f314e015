"""A plan that makes calls slower is retired, and its calls go straight to the model."""

from __future__ import annotations

import logging

import pytest
import torch

import memomalloc
from memomalloc.runtime.learning import call_group
from memomalloc.runtime.learning.earnings import MIN_COMPARISONS, PROBES_PER_COMPARISON, RUNS_PER_COMPARISON
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, learn

NUM_CALLS = (MIN_COMPARISONS + 1) * RUNS_PER_COMPARISON


def _function(values: torch.Tensor) -> torch.Tensor:
    return values + 1


@pytest.fixture
def planned_calls_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured times are replaced: twice as long where the call was replayed."""
    original_timed, original_probed = call_group.CallGroup.timed, call_group.CallGroup.probed
    monkeypatch.setattr(call_group.CallGroup, "timed", lambda group, seconds: original_timed(group, 2.0))
    monkeypatch.setattr(call_group.CallGroup, "probed", lambda group, seconds: original_probed(group, 1.0))


@pytest.mark.usefixtures("planned_calls_are_slow")
def test_a_plan_that_costs_time_is_retired(caplog: pytest.LogCaptureFixture) -> None:
    wrapper = memomalloc.optimize(_function)
    values = torch.arange(8.0)
    with caplog.at_level(logging.INFO, "memomalloc"):
        for _ in range(NUM_CALLS):
            wrapper(values)
    assert wrapper.plans == ()
    stats = wrapper.stats()
    unplanned = dict(stats.runs_unplanned)
    assert unplanned["probe"] == MIN_COMPARISONS * PROBES_PER_COMPARISON
    assert unplanned["retired"] > 0
    assert stats.runs_recorded + stats.runs_replayed + sum(unplanned.values()) == NUM_CALLS
    events = [record.memomalloc for record in caplog.records if record.memomalloc["event"] == "retired"]
    assert [event["speed"] for event in events] == [0.5]
    assert_equal_bits(wrapper(values), _function(values))
    wrapper.forget()  # the function has changed: it is learned anew
    learn(wrapper, values)


@pytest.mark.usefixtures("planned_calls_are_slow")
def test_other_kinds_of_calls_are_still_learned() -> None:
    wrapper = memomalloc.optimize(_function)
    values = torch.arange(8.0)
    for _ in range(NUM_CALLS):
        wrapper(values)
    assert wrapper.plans == ()
    for _ in range(600):
        wrapper(values.double())
    assert len(wrapper.plans) == 1
    assert_equal_bits(wrapper(values), _function(values))


@pytest.mark.usefixtures("planned_calls_are_slow")
def test_plans_are_kept_where_that_is_asked_for() -> None:
    wrapper = memomalloc.optimize(_function, keep_plans=True)
    values = torch.arange(8.0)
    for _ in range(NUM_CALLS):
        wrapper(values)
    assert len(wrapper.plans) == 1
    assert wrapper.stats().runs_unplanned == {"warm_up": 1}


def test_results_are_right_through_all_comparisons() -> None:
    wrapper = memomalloc.optimize(Chain())
    values, expected = chain_values(0), chain_result(chain_values(0))
    for call in range(NUM_CALLS):
        output = wrapper(values)
        if call % 50 == 0 or call % RUNS_PER_COMPARISON < 10:
            assert_equal_bits(output, expected)


def test_an_argument_that_cannot_be_hashed_any_more_costs_no_result() -> None:
    class Request:
        def __init__(self) -> None:
            self.log: tuple[object, ...] = ()

        def __hash__(self) -> int:
            return hash(self.log)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Request) and self.log == other.log

    def function(values: torch.Tensor, request: Request) -> torch.Tensor:
        request.log = (*request.log, {"not": "hashable"})
        return values * 2 + len(request.log)

    wrapper = memomalloc.optimize(function, warm_up_calls=0)
    values = chain_values(0)
    for _ in range(8):
        assert_equal_bits(wrapper(values, Request()), function(values, Request()))
