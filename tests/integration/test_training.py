"""A whole training step, wrapped as a callable: losses and weights are those of the original, bit for bit."""

from __future__ import annotations

import pytest

import memomalloc
from dynamic_models import PROGRAMS, run_beside_the_original, served_share_between, train_step
from memomalloc.runtime.calls.shape_policy import POLICIES

pytestmark = pytest.mark.usefixtures("poison")

TRAIN_STEP = next(program for program in PROGRAMS if program.name == "train_step")


@pytest.mark.parametrize("match", ["auto", "origin"])
@pytest.mark.parametrize("shapes", POLICIES)
def test_two_hundred_steps_are_equal(shapes: str, match: str) -> None:
    stats = run_beside_the_original(TRAIN_STEP, 200, shapes=shapes, match=match)[-1]
    assert stats.runs_replayed > 50


@pytest.mark.parametrize("shapes", ["bucketed", "merged"])
def test_steps_are_served_once_they_are_learned(shapes: str) -> None:
    learned, end = run_beside_the_original(TRAIN_STEP, 200, [100], shapes=shapes)
    assert served_share_between(learned, end) >= 0.95


def test_gradients_that_live_on_do_not_spoil_the_plan() -> None:
    """Between two steps the gradients live, and the state of the optimizer lives for ever."""
    inputs = TRAIN_STEP.inputs(0)
    step = memomalloc.optimize(train_step())
    for _ in range(12):
        step(*inputs)
    before = step.stats()
    for _ in range(10):
        step(*inputs)
    assert served_share_between(before, step.stats()) == 1.0
