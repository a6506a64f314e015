"""An exception half-way through a run leaves everything usable, whatever phase it hits."""

from __future__ import annotations

import gc

import pytest
import torch

import memomalloc
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn, upstream_requests

pytestmark = pytest.mark.usefixtures("poison")


class Bomb:
    """A visitor of :class:`Chain` that raises at a step, while it is armed."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step = step
        self.error = error
        self.armed = False

    def __call__(self, step: int, values: torch.Tensor) -> None:
        if self.armed and step == self.step:
            raise self.error("half-way")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, GeneratorExit])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_a_replayed_run_that_raises_is_counted_and_the_next_one_is_served(
    step: int, error: type[BaseException]
) -> None:
    bomb = Bomb(step, error)
    wrapper = memomalloc.optimize(Chain(visit=bomb))
    learn(wrapper, chain_values(0))
    before = wrapper.stats()
    bomb.armed = True
    with pytest.raises(error, match="half-way"):
        wrapper(chain_values(1))
    bomb.armed = False
    after = wrapper.stats()
    assert after.num_regions_in_use == 0
    assert (after.requests_missing > before.requests_missing) == (step < 5)
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(2))
    assert_equal_bits(output, chain_result(chain_values(2)))


@pytest.mark.parametrize("call", range(5), ids=["warm_up", "recording", "second_recording", "replay", "later"])
def test_a_call_that_raises_in_any_phase_only_delays_learning(call: int) -> None:
    bomb = Bomb(3, RuntimeError)
    wrapper = memomalloc.optimize(Chain(visit=bomb), warm_up_calls=1)
    for _ in range(call):
        wrapper(chain_values(0))
    bomb.armed = True
    for _ in range(3):
        with pytest.raises(RuntimeError, match="half-way"):
            wrapper(chain_values(0))
    bomb.armed = False
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(1))
    assert_equal_bits(output, chain_result(chain_values(1)))


def _error_of(wrapper: memomalloc.OptimizedModule, values: torch.Tensor) -> RuntimeError:
    try:
        wrapper(values)
    except RuntimeError as error:
        return error
    raise AssertionError("it did not raise")


def _values_in_last_frame(error: RuntimeError) -> torch.Tensor:
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_locals["values"]


def test_a_kept_exception_keeps_the_tensors_of_its_frames() -> None:
    bomb = Bomb(3, RuntimeError)
    wrapper = memomalloc.optimize(Chain(visit=bomb))
    learn(wrapper, chain_values(0))
    bomb.armed = True
    error = _error_of(wrapper, chain_values(1))
    bomb.armed = False

    def run() -> None:
        assert_equal_bits(wrapper(chain_values(2)), chain_result(chain_values(2)))

    assert "blocked" in upstream_requests(wrapper, run)
    assert_equal_bits(_values_in_last_frame(error), chain_result(chain_values(1), depth=4))
    del error
    gc.collect()  # an exception and its frames hold each other
    with fully_served(wrapper, runs=1):
        run()


def test_errors_of_replay_and_record_blocks_are_not_swallowed() -> None:
    def run() -> None:
        chain_result(chain_values(0))
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), memomalloc.record() as recording:
        run()
    plan = memomalloc.plan(recording.trace)
    with pytest.raises(ValueError, match="inside"), memomalloc.replay(plan) as replay:
        run()
    assert replay.num_deviations == 0
