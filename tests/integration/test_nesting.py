"""Wrappers inside wrappers, recordings and replays."""

from __future__ import annotations

import pytest
import torch

import memomalloc
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.usefixtures("poison")


class Block(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cos(values)) + values


def _expected(values: torch.Tensor) -> torch.Tensor:
    return Block(Block(Chain()))(values)


@pytest.mark.parametrize("learned_first", ["inner", "outer"])
def test_the_outermost_wrapper_serves_the_whole_call(learned_first: str) -> None:
    inner = memomalloc.optimize(Chain())
    middle = memomalloc.optimize(Block(inner))
    outer = memomalloc.optimize(Block(middle))
    if learned_first == "inner":
        learn(inner, chain_values(0))
        learn(middle, chain_values(0))
    learn(outer, chain_values(0))
    replayed = inner.stats().runs_replayed, middle.stats().runs_replayed
    with fully_served(outer, runs=3):
        for seed in range(3):
            assert_equal_bits(outer(chain_values(seed)), _expected(chain_values(seed)))
    assert (inner.stats().runs_replayed, middle.stats().runs_replayed) == replayed
    assert middle.stats().runs_unplanned["nested"] >= 3


def test_the_inner_wrapper_by_itself_is_served_as_well() -> None:
    inner = memomalloc.optimize(Chain())
    outer = memomalloc.optimize(Block(inner))
    learn(outer, chain_values(0))
    learn(inner, chain_values(0))
    for seed in range(4):
        with fully_served(inner, runs=1):
            assert_equal_bits(inner(chain_values(seed)), chain_result(chain_values(seed)))
        with fully_served(outer, runs=1):
            assert_equal_bits(outer(chain_values(seed)), Block(Chain())(chain_values(seed)))


def test_a_wrapper_inside_a_recording_goes_on_replaying() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    values = chain_values(1)
    with memomalloc.record() as recording:
        torch.cos(values)
        with fully_served(wrapper, runs=1):
            output = wrapper(values)
    assert len(recording.trace) == 13
    assert_equal_bits(output, chain_result(values))


def test_a_wrapper_inside_a_replay_is_served_from_the_outer_plan() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    values = chain_values(1)
    with memomalloc.record() as recording:
        output = chain_result(values)
    plan = memomalloc.plan(recording.trace)
    with memomalloc.replay(plan) as replay:
        output = wrapper(values)
    assert replay.num_deviations == 0
    assert wrapper.stats().runs_unplanned["nested"] == 1
    assert_equal_bits(output, chain_result(values))


def test_a_replay_inside_a_wrapped_function_is_nested() -> None:
    values = chain_values(0)
    with memomalloc.record() as recording:
        output = chain_result(values)
    plan = memomalloc.plan(recording.trace)

    def run(values: torch.Tensor) -> torch.Tensor:
        with memomalloc.replay(plan):
            return chain_result(values)

    wrapper = memomalloc.optimize(run)
    learn(wrapper, values)
    with fully_served(wrapper, runs=1):
        output = wrapper(values)
    assert_equal_bits(output, chain_result(values))
