"""Off means off: nothing is planned, and with the variable set nothing is even loaded."""

from __future__ import annotations

import pytest

import memomalloc
from child_process import in_child_process, run_python
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.usefixtures("switched_back_on")


def test_disabled_calls_run_unplanned_and_plans_are_kept() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    replayed = wrapper.stats().runs_replayed
    memomalloc.disable()
    assert not memomalloc.is_enabled()
    for seed in range(3):
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    assert wrapper.stats().runs_replayed == replayed
    assert wrapper.stats().runs_unplanned == {"warm_up": 1, "disabled": 3}
    memomalloc.enable()
    assert memomalloc.is_enabled()
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))


def test_a_run_in_progress_ends_as_it_began() -> None:
    wrapper = memomalloc.optimize(Chain(visit=lambda step, values: memomalloc.disable() if off else None))
    off = False
    learn(wrapper, chain_values(0))
    off = True
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(1))
    assert_equal_bits(output, chain_result(chain_values(1)))
    assert wrapper.stats().num_regions_in_use == 0


def test_a_disabled_replay_does_not_start() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    plan = memomalloc.plan(recording.trace)
    memomalloc.disable()
    with memomalloc.replay(plan) as replay:
        chain_result(chain_values(0))
    assert not replay.started


@in_child_process(env={"MEMOMALLOC_DISABLE": "1"})
def test_the_variable_turns_everything_off_until_enabled() -> None:
    wrapper = memomalloc.optimize(Chain(), example_inputs=chain_values(0))
    for seed in range(10):
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    assert wrapper.stats().runs_unplanned == {"disabled": 10}
    assert memomalloc.stats().num_plans == 0
    memomalloc.enable()
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))


VALUES = dict.fromkeys(["", "0", "false", "False", "NO", "off", " 0 "], True) | dict.fromkeys(
    ["1", "true", "on", "2"], False
)


@pytest.mark.parametrize("value", VALUES)
def test_the_variable_means_what_it_says(value: str) -> None:
    child = run_python("import memomalloc; print(memomalloc.is_enabled())", env={"MEMOMALLOC_DISABLE": value})
    assert child.stdout == f"{VALUES[value]}\n", child.stderr


def test_with_the_variable_set_the_native_runtime_is_not_even_loaded() -> None:
    child = run_python(
        """
        import sys, torch, memomalloc
        wrapper = memomalloc.optimize(torch.nn.Linear(3, 3), example_inputs=torch.ones(3))
        for _ in range(10):
            wrapper(torch.ones(3))
        memomalloc.stats()
        print("memomalloc._runtime" in sys.modules)
        """,
        env={"MEMOMALLOC_DISABLE": "1"},
    )
    assert child.stdout == "False\n", child.stderr
