"""A model that calls its own wrapper: the outermost call is planned, and its plan covers the inner ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from models import chain_values
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.usefixtures("poison")


class Recursive(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again: list[Any] = [self]  # a list: not a submodule
        self.depth = 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.depth == 3:
            return torch.cos(values)
        self.depth += 1
        try:
            return torch.sin(self.again[0](values * 2)) + values
        finally:
            self.depth -= 1


def test_a_model_that_calls_its_own_wrapper() -> None:
    module = Recursive()
    wrapper = memomalloc.optimize(module)
    module.again[0] = wrapper
    learn(wrapper, chain_values(0))
    for seed in range(5):
        before = wrapper.stats()
        output = wrapper(chain_values(seed))
        after = wrapper.stats()
        assert_equal_bits(output, Recursive()(chain_values(seed)))
        assert after.runs_replayed == before.runs_replayed + 1
        assert after.requests_served - before.requests_served == after.requests_planned - before.requests_planned > 0
        assert after.runs_unplanned["nested"] == before.runs_unplanned.get("nested", 0) + 3
    assert len(wrapper.plans) == 1


def test_replays_and_recordings_of_one_plan_nest() -> None:
    values = chain_values(0)
    with memomalloc.record() as outer, memomalloc.record() as inner:
        expected = torch.sin(values) + values
    assert len(outer.trace) == len(inner.trace) == 2
    plan = memomalloc.plan(outer.trace)
    with memomalloc.replay(plan) as first, memomalloc.replay(plan) as second:
        output = torch.sin(values) + values
    assert (first.started, second.started, first.num_deviations) == (True, False, 0)
    assert_equal_bits(output, expected)


def test_a_wrapper_that_learns_inside_a_replay_waits_until_it_is_outermost() -> None:
    wrapper = memomalloc.optimize(torch.sin)
    values = chain_values(0)
    with memomalloc.record() as recording:
        torch.sin(values)
    plan = memomalloc.plan(recording.trace)
    for _ in range(10):
        with memomalloc.replay(plan):
            wrapper(values)
    assert wrapper.stats().runs_unplanned == {"nested": 10}
    learn(wrapper, values)
    with fully_served(wrapper, runs=1):
        wrapper(values)
