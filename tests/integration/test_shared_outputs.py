"""Large outputs that a program gives back before its next call share their bytes; the first it holds ends that."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

import memomalloc
from memomalloc.report import Placement
from serving import (
    assert_equal_bits,
    errors_in_threads,
    fully_served,
    hold_each_while_the_next_is_made,
    learn,
    lies_in_an_arena,
    upstream_requests,
)

pytestmark = pytest.mark.usefixtures("poison")

MIB = 1 << 20
#: Channels of 256 x 256 floats are 256 KiB each.
SIZE = 256


class Segmenter(nn.Module):
    """Large features, then a large output: 4 MiB are alive at the fullest moment, 1 MiB at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: torch.Tensor | None = None
        self.is_keeping = False

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.sin(torch.cat([image] * 8, dim=1))  # 2 MiB from 2 MiB
        if self.is_keeping:
            self.kept = features[:, :4].clone()
        return torch.cos(features[:, :4])  # 1 MiB


def image(seed: int) -> torch.Tensor:
    return torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def the_plan(wrapper: Any) -> memomalloc.Plan:
    (plan,) = wrapper.plans
    assert isinstance(plan, memomalloc.Plan)
    assert plan.arena_bytes == plan.lower_bound_bytes
    return plan


def learned_by_dropping() -> Any:
    wrapper = memomalloc.optimize(Segmenter())
    learn(wrapper, image(0))
    return wrapper


def test_an_output_that_is_given_back_shares_its_bytes() -> None:
    wrapper = learned_by_dropping()
    plan = the_plan(wrapper)
    (trace,) = wrapper.traces
    assert plan.arena_bytes == 4 * MIB
    assert memomalloc.plan(trace).arena_bytes == 5 * MIB
    assert not plan.escapes.any()
    assert trace.escapes.tolist() == [False, False, True]
    with fully_served(wrapper, runs=5):
        for seed in range(5):
            assert_equal_bits(wrapper(image(seed)), Segmenter()(image(seed)))
    assert the_plan(wrapper) is plan


def test_an_output_that_is_held_while_it_is_learned_has_its_own() -> None:
    wrapper = memomalloc.optimize(Segmenter())
    held = [wrapper(image(0))]
    while not wrapper.plans:
        held[0] = wrapper(image(0))
    hold_each_while_the_next_is_made(wrapper, held, [image(seed) for seed in range(10)])
    assert the_plan(wrapper).arena_bytes == 5 * MIB
    assert the_plan(wrapper).escapes.tolist() == [False, False, True]


def test_the_first_output_that_is_held_gives_all_their_own() -> None:
    wrapper = learned_by_dropping()
    outputs = [wrapper(image(0))]
    assert lies_in_an_arena(outputs[0])
    counts = upstream_requests(wrapper, lambda: outputs.append(wrapper(image(1))))
    assert counts == {"blocked": 2}  # its own place, and of the features that it shares bytes with
    with fully_served(wrapper, runs=2):
        outputs.append(wrapper(image(2)))
        outputs.append(wrapper(image(3)))
    for seed, output in enumerate(outputs):
        assert_equal_bits(output, Segmenter()(image(seed)))
    assert the_plan(wrapper).arena_bytes == 5 * MIB
    assert lies_in_an_arena(outputs[0])  # the arena that it lies in stays with it

    outputs.clear()
    del output
    with fully_served(wrapper, runs=10):  # it does not go back
        for seed in range(10):
            wrapper(image(seed))
    assert the_plan(wrapper).arena_bytes == 5 * MIB


def test_an_output_that_shares_no_byte_by_chance_has_no_spare_place_either() -> None:
    wrapper = memomalloc.optimize(lambda values: values + 1)
    values = torch.ones(MIB)
    learn(wrapper, values)
    assert not the_plan(wrapper).escapes.any()
    held = [wrapper(values)]
    assert upstream_requests(wrapper, lambda: wrapper(values)) == {"occupied": 1}
    hold_each_while_the_next_is_made(wrapper, held, [values] * 5)


def test_what_the_module_keeps_has_its_own_beside_an_output_that_shares() -> None:
    module = Segmenter()
    module.is_keeping = True
    wrapper = memomalloc.optimize(module)
    learn(wrapper, image(0))
    assert the_plan(wrapper).escapes.tolist() == [False, False, True, False]
    with fully_served(wrapper, runs=5):
        for seed in range(5):
            last = module.kept
            assert_equal_bits(wrapper(image(seed)), Segmenter()(image(seed)))
            assert last is not None
            assert_equal_bits(last, torch.sin(image(seed - 1 if seed else 0).expand(1, 4, SIZE, SIZE)))


def test_a_small_output_has_its_own_whatever_is_done_with_it() -> None:
    wrapper = memomalloc.optimize(lambda values: torch.cos(torch.sin(values)))
    learn(wrapper, torch.ones(1000))
    assert the_plan(wrapper).escapes.any()
    held = [wrapper(torch.ones(1000))]
    hold_each_while_the_next_is_made(wrapper, held, [torch.ones(1000)] * 5)


def test_example_inputs_say_nothing_about_what_becomes_of_outputs() -> None:
    wrapper = memomalloc.optimize(Segmenter(), example_inputs=image(0))
    assert the_plan(wrapper).escapes.any()


def test_saved_plans_share_until_an_output_is_held() -> None:
    saved = io.BytesIO()
    learned_by_dropping().save_plans(saved)
    saved.seek(0)
    wrapper = memomalloc.optimize(Segmenter())
    wrapper.load_plans(saved, strict=True)
    outputs = [wrapper(image(0))]
    assert the_plan(wrapper).arena_bytes == 4 * MIB
    outputs += [wrapper(image(1)), wrapper(image(2))]
    assert the_plan(wrapper).arena_bytes == 5 * MIB
    with fully_served(wrapper, runs=1):
        outputs.append(wrapper(image(3)))
    for seed, output in enumerate(outputs):
        assert_equal_bits(output, Segmenter()(image(seed)))


def test_a_plan_that_shares_outputs_is_shown_with_its_trace() -> None:
    wrapper = learned_by_dropping()
    (trace,) = wrapper.traces
    assert Placement.of_plan(the_plan(wrapper), trace=trace).has_origins


def test_threads_that_hold_their_last_outputs() -> None:
    wrapper = learned_by_dropping()
    expected = [Segmenter()(image(seed)) for seed in range(4)]

    def work(seed: int) -> None:
        held: list[torch.Tensor] = []
        for _ in range(30):
            held = [*held[-2:], wrapper(image(seed))]
            for output in held:
                assert_equal_bits(output, expected[seed])

    assert errors_in_threads(work, 4) == []
    assert the_plan(wrapper).arena_bytes == 5 * MIB
    assert wrapper.stats().num_bad_frees == 0
