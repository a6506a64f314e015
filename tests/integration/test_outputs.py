"""Outputs lie apart from what calls use: as many as are held, in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import memomalloc
from serving import (
    assert_equal_bits,
    errors_in_threads,
    fully_served,
    learn,
    lies_in_an_arena,
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


def learned() -> Any:
    optimized = memomalloc.optimize(Segmenter())
    learn(optimized, image(0))
    return optimized


def test_outputs_lie_apart_from_the_region_however_many_are_held() -> None:
    optimized = learned()
    outputs = []
    with fully_served(optimized, runs=20):
        for seed in range(20):
            outputs.append(optimized(image(seed)))
    assert all(map(lies_in_an_arena, outputs))
    regions = memomalloc.memory_stats().regions
    assert all(region.num_kept == 0 for region in regions)
    assert sum(region.output_bytes for region in regions) >= 20 * MIB
    for seed, output in enumerate(outputs):
        assert_equal_bits(output, Segmenter()(image(seed)))


def test_a_held_output_keeps_no_region_from_another_model() -> None:
    first, second = learned(), memomalloc.optimize(lambda values: torch.cos(torch.sin(values) * 2))
    learn(second, torch.ones(2 * MIB))
    before = memomalloc.memory_stats()
    held = first(image(1))
    with fully_served(second, runs=1):
        second(torch.ones(2 * MIB))
    after = memomalloc.memory_stats()
    assert len(after.regions) == len(before.regions)
    assert first.stats().kept_regions == second.stats().kept_regions == 0
    assert_equal_bits(held, Segmenter()(image(1)))


def test_outputs_that_are_dropped_use_the_same_memory_again() -> None:
    optimized = learned()
    optimized(image(0))
    before = memomalloc.memory_stats().mapped_bytes
    for seed in range(50):
        optimized(image(seed))
    assert memomalloc.memory_stats().mapped_bytes == before


def test_what_the_module_keeps_is_an_output_too() -> None:
    module = Segmenter()
    module.is_keeping = True
    optimized = memomalloc.optimize(module)
    learn(optimized, image(0))
    with fully_served(optimized, runs=5):
        for seed in range(5):
            last = module.kept
            assert_equal_bits(optimized(image(seed)), Segmenter()(image(seed)))
            assert last is not None
            assert_equal_bits(last, torch.sin(image(seed - 1 if seed else 0).expand(1, 4, SIZE, SIZE)))


def test_threads_that_hold_their_last_outputs() -> None:
    optimized = learned()
    expected = [Segmenter()(image(seed)) for seed in range(4)]

    def work(seed: int) -> None:
        held: list[torch.Tensor] = []
        for _ in range(30):
            held = [*held[-2:], optimized(image(seed))]
            for output in held:
                assert_equal_bits(output, expected[seed])

    assert errors_in_threads(work, 4) == []
    assert optimized.stats().num_bad_frees == 0
