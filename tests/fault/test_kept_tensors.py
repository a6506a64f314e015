"""Tensors that the program keeps longer than the plan foresaw: nothing overwrites them, and runs go on."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import memomalloc
from models import Chain, ConvNet, chain_result, chain_values, conv_net, images
from serving import (
    assert_equal_bits,
    fully_served,
    hold_each_while_the_next_is_made,
    is_accessible,
    learn,
    lies_in_an_arena,
    upstream_requests,
)

pytestmark = pytest.mark.usefixtures("poison")

#: Fewer than make a wrapper learn its program anew.
SOME_RUNS = 5


def _itself(values: torch.Tensor) -> Any:
    return values


def _view(values: torch.Tensor) -> Any:
    return values[10:20]


def _numpy(values: torch.Tensor) -> Any:
    return values.detach().numpy()


def _dlpack(values: torch.Tensor) -> Any:
    return torch.from_dlpack(values.detach())


def _copy(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values.detach().numpy().copy())


@pytest.mark.parametrize("hold", [_itself, _view, _numpy, _dlpack])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_tensor_kept_from_the_middle_keeps_its_values(step: int, hold: Callable[[torch.Tensor], Any]) -> None:
    kept: list[Any] = []
    copies: list[torch.Tensor] = []  # in memory of numpy, which no plan knows
    keeping = False

    def visit(at: int, values: torch.Tensor) -> None:
        if keeping and at == step:
            kept.append(hold(values))
            copies.append(_copy(torch.as_tensor(kept[-1])))

    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    keeping = True
    wrapper(chain_values(1))
    keeping = False
    assert lies_in_an_arena(torch.as_tensor(kept[0]))

    def more_runs() -> None:
        for seed in range(SOME_RUNS):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))

    counts = upstream_requests(wrapper, more_runs)
    assert set(counts) <= {"blocked", "occupied"}
    assert step == 5 or counts["blocked"] > 0  # the last step's is the output, which has a place of its own
    assert_equal_bits(torch.as_tensor(kept[0]), copies[0])
    kept.clear()
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))


def test_every_intermediate_tensor_of_a_run_can_be_kept() -> None:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    keeping = False
    wrapper = memomalloc.optimize(
        Chain(visit=lambda step, values: kept.append((values, _copy(values))) if keeping else None)
    )
    learn(wrapper, chain_values(0))
    keeping = True
    for seed in range(SOME_RUNS):
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    keeping = False
    for values, copied in kept:
        assert_equal_bits(values, copied)
    kept.clear()
    with fully_served(wrapper, runs=1):
        assert_equal_bits(wrapper(chain_values(9)), chain_result(chain_values(9)))


@pytest.mark.parametrize("make", [Chain, ConvNet])
def test_outputs_of_200_runs_are_all_kept(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    inputs = [chain_values(seed) if make is Chain else images(seed, batch=1, size=24) for seed in range(200)]
    wrapper = memomalloc.optimize(module)
    with torch.inference_mode():
        learn(wrapper, inputs[0])
        outputs = [wrapper(values) for values in inputs]
        for values, output in zip(inputs, outputs, strict=True):
            assert_equal_bits(output, module(values))
        blocks = sorted((output.data_ptr(), output.nbytes) for output in outputs)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(blocks))
        assert wrapper.stats().served_share == 1.0
        assert all(map(lies_in_an_arena, outputs))
        del outputs, output
        with fully_served(wrapper, runs=1):
            wrapper(inputs[0])


def test_the_last_output_may_be_held_while_the_next_is_made() -> None:
    wrapper = memomalloc.optimize(conv_net())
    with torch.inference_mode():
        learn(wrapper, images(0))
        held = [wrapper(images(0))]
        hold_each_while_the_next_is_made(wrapper, held, [images(seed) for seed in range(10)])


@pytest.mark.parametrize("delete", ["wrapper", "forget", "plan"])
def test_outputs_outlive_what_made_them_and_then_the_memory_goes(delete: str) -> None:
    values = chain_values(1)
    expected = chain_result(values)
    if delete == "plan":
        with memomalloc.record() as recording:
            chain_result(values)
        plan = memomalloc.plan(recording.trace)
        with memomalloc.replay(plan):
            output = Chain()(values)
        del plan
    else:
        wrapper = memomalloc.optimize(Chain())
        learn(wrapper, chain_values(0))
        output = wrapper(values)
        if delete == "forget":
            wrapper.forget()
        else:
            del wrapper
    gc.collect()
    assert lies_in_an_arena(output)
    other = memomalloc.optimize(Chain())
    learn(other, chain_values(2))  # may not take over what is still in use
    assert_equal_bits(output, expected)
    assert is_accessible(output.data_ptr())
    memomalloc.release()
    mapped_bytes = memomalloc.memory_stats().mapped_bytes
    del output
    memomalloc.release()
    assert memomalloc.memory_stats().mapped_bytes < mapped_bytes


def test_a_wrapper_deleted_in_the_middle_of_its_run() -> None:
    wrappers: list[Any] = []

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3 and deleting:
            wrappers.clear()
            gc.collect()

    deleting = False
    module = Chain(visit=visit)
    wrappers.append(memomalloc.optimize(module))
    learn(wrappers[0], chain_values(0))
    deleting = True
    output = wrappers[0](chain_values(1))
    assert wrappers == []
    assert_equal_bits(output, chain_result(chain_values(1)))


def test_outputs_resized_or_shared_are_still_right() -> None:
    wrapper = memomalloc.optimize(Chain())
    with torch.no_grad():
        learn(wrapper, chain_values(0))
        for seed in range(6):
            output = wrapper(chain_values(seed))
            expected = chain_result(chain_values(seed))
            if seed % 2:
                output.resize_(3000)  # moves the storage
                output = output[:1000]
            else:
                output.share_memory_()
            assert_equal_bits(output, expected)
    assert wrapper.stats().num_bad_frees == 0
