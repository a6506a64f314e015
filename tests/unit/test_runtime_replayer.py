"""Replays of a plan by hand."""

from __future__ import annotations

import gc
import weakref

import pytest

import memomalloc
from memomalloc.errors import RecordingError
from models import chain_result, chain_values
from serving import assert_equal_bits, lies_in_an_arena


@pytest.fixture
def plan() -> memomalloc.Plan:
    values = chain_values(0)
    with memomalloc.record() as recording:
        chain_result(values)
    return memomalloc.plan(recording.trace)


def test_a_replay_serves_and_counts(plan: memomalloc.Plan) -> None:
    values = chain_values(1)
    with memomalloc.replay(plan) as replay:
        output = chain_result(values)
    assert (replay.started, replay.num_deviations) == (True, 0)
    assert lies_in_an_arena(output)
    assert_equal_bits(output, chain_result(values))


def test_deviations_are_counted(plan: memomalloc.Plan) -> None:
    values = chain_values(1)
    with memomalloc.replay(plan) as short:
        chain_result(values, depth=4)
    with memomalloc.replay(plan) as long:
        chain_result(values, depth=7)
    assert (short.num_deviations, long.num_deviations) == (4, 2)


def test_requests_after_the_block_go_upstream(plan: memomalloc.Plan) -> None:
    with memomalloc.replay(plan):
        pass
    assert not lies_in_an_arena(chain_result(chain_values(1)))


def test_a_replay_replays_once(plan: memomalloc.Plan) -> None:
    replay = memomalloc.replay(plan)
    with pytest.raises(RecordingError, match="has ended"):
        _ = replay.num_deviations
    with replay, pytest.raises(RecordingError, match="replays once"):
        replay.__enter__()
    with pytest.raises(RecordingError, match="replays once"):
        replay.__enter__()


def test_an_empty_plan_can_be_replayed() -> None:
    with memomalloc.record() as recording:
        pass
    values = chain_values(1)
    with memomalloc.replay(memomalloc.plan(recording.trace)) as replay:
        output = chain_result(values)
    assert replay.num_deviations == 12
    assert_equal_bits(output, chain_result(values))


def test_a_plan_keeps_its_arena_between_replays_and_takes_it_along() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    plan = memomalloc.plan(recording.trace)
    gc.collect()
    before = memomalloc.stats().num_regions
    for _ in range(5):
        with memomalloc.replay(plan):
            chain_result(chain_values(1))
    collected = weakref.ref(plan)
    assert memomalloc.stats().num_regions == before + 1
    del plan
    gc.collect()
    assert collected() is None
    assert memomalloc.stats().num_regions == before
