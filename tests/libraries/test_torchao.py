"""torchao: quantized before it is optimized, and after."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same
from models import chain_values

quantization = pytest.importorskip("torchao.quantization")


def model() -> Any:
    torch.manual_seed(0)
    # So many that an output that is held, and then finds its place taken, is a small share of what is asked for.
    return torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(30)]).eval()


def values(seed: int) -> torch.Tensor:
    return chain_values(seed, 4 * 64).reshape(4, 64)


def quantized() -> Any:
    made = model()
    quantization.quantize_(made, quantization.Int8WeightOnlyConfig())
    return made


@pytest.mark.parametrize("inplace", [False, True])
def test_a_quantized_model_is_planned(inplace: bool) -> None:
    plain, planned = quantized(), memomalloc.optimize(quantized(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(values(seed)), lambda seed: planned(values(seed)), planned)
        assert_same(copy.deepcopy(planned)(values(0)), plain(values(0)))


def test_a_planned_model_is_quantized() -> None:
    planned = memomalloc.optimize(model())
    with torch.inference_mode():
        for seed in range(8):
            planned(values(seed))
        quantization.quantize_(planned, quantization.Int8WeightOnlyConfig())
        plain = quantized()
        assert_as_plain(lambda seed: plain(values(seed)), lambda seed: planned(values(seed)), planned, to_learn=60)
