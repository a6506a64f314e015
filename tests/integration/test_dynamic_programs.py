"""Programs that do what they like, under every policy: slower at worst, never wrong."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import memomalloc
from dynamic_models import bert, tokens
from memomalloc.runtime.calls.shape_policy import POLICIES
from models import Chain, chain_values, conv_net, images
from serving import assert_equal_bits, errors_in_threads, learn

pytestmark = [pytest.mark.usefixtures("poison"), pytest.mark.parametrize("shapes", POLICIES)]


def test_exceptions_in_recorded_and_replayed_calls(shapes: str) -> None:
    def visit(step: int, values: torch.Tensor) -> None:
        if fails and step == 3:
            raise ValueError("in the middle")

    wrapper = memomalloc.optimize(Chain(visit=visit), shapes=shapes)
    for call in range(60):
        values = chain_values(call, 100 + 10 * (call % 4))
        fails = call % 5 in (0, 2)
        if fails:
            with pytest.raises(ValueError, match="in the middle"):
                wrapper(values)
        else:
            assert_equal_bits(wrapper(values), Chain()(values))
    assert wrapper.stats().runs_replayed > 0
    assert wrapper.stats().num_regions_in_use == 0


def test_threads_and_eviction(shapes: str) -> None:
    model = Chain()
    wrapper = memomalloc.optimize(model, shapes=shapes, max_plans=2, max_bytes=200_000, warm_up_calls=0)

    def work(number: int) -> None:
        for call in range(80):
            values = chain_values(call, 100 + 50 * ((call * (number + 1)) % 7))
            assert_equal_bits(wrapper(values), model(values))

    assert not errors_in_threads(work, 4)
    assert wrapper.stats().num_plans <= 2
    assert wrapper.stats().mapped_bytes <= 200_000


def test_collections_in_the_middle(shapes: str) -> None:
    def visit(step: int, values: torch.Tensor) -> None:
        cycle: list[Any] = [values + step]
        cycle.append(cycle)
        if step == 3:
            gc.collect(1)

    wrapper = memomalloc.optimize(Chain(visit=visit), shapes=shapes)
    for call in range(30):
        values = chain_values(call, 100 + 10 * (call % 4))
        assert_equal_bits(wrapper(values), Chain()(values))


def test_weights_that_are_swapped_and_plans_that_are_forgotten(shapes: str) -> None:
    model, reference = conv_net(), conv_net()
    wrapper = memomalloc.optimize(model, shapes=shapes)
    with torch.inference_mode():
        for call in range(40):
            if call % 10 == 5:
                for module in (model, reference):
                    torch.manual_seed(call)
                    module.head = torch.nn.Linear(32, 10 + call)
            if call % 16 == 15:
                wrapper.forget()
            batch = images(call, batch=1 + call % 3, size=32)
            assert_equal_bits(wrapper(batch), reference(batch))
    assert wrapper.stats().runs_replayed > 0


def test_generators_and_hooks(shapes: str) -> None:
    model = Chain()
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output * 2))
    wrapper = memomalloc.optimize(model, shapes=shapes)

    def stream(calls: int) -> Any:
        for call in range(calls):
            yield chain_values(call, 200 + call % 3), wrapper(chain_values(call, 200 + call % 3))

    for values, output in stream(30):
        assert_equal_bits(output, Chain()(values))
    for call, doubled in enumerate(seen):
        assert_equal_bits(doubled, Chain()(chain_values(call, 200 + call % 3)) * 2)


def test_modes_that_change_from_call_to_call(shapes: str) -> None:
    model = bert()
    wrapper = memomalloc.optimize(model, shapes=shapes)
    modes = [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
    for call in range(36):
        with modes[call // 2 % 3]():
            ids = tokens(8 + call % 5, call)
            assert_equal_bits(wrapper(ids)[0].float(), model(ids)[0].float())


def test_large_and_odd_arguments(shapes: str) -> None:
    def function(values: torch.Tensor, **options: Any) -> torch.Tensor:
        return torch.sin(values) * len(options)

    wrapper = memomalloc.optimize(function, shapes=shapes)
    options = {f"option_{number}": [number, {"nested": (number, None, float("nan"))}] for number in range(200)}
    values = chain_values(0, 300)
    learn(wrapper, values, **options)
    assert_equal_bits(wrapper(values, **options), function(values, **options))


def test_outputs_of_many_calls_are_kept(shapes: str) -> None:
    wrapper = memomalloc.optimize(Chain(), shapes=shapes)
    kept = [(wrapper(chain_values(call, 100 + call % 7)), call) for call in range(120)]
    for output, call in kept:
        assert_equal_bits(output, Chain()(chain_values(call, 100 + call % 7)))
