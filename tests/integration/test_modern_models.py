"""The models of today that are measured: each is planned, served whole, and gives its own results."""

from __future__ import annotations

import warnings

import pytest
import torch

import memomalloc
from memomalloc.bench.model import Model
from memomalloc.bench.modern_models import MODERN
from memomalloc.bench.workload import same_bits, tensors_in

#: Small, and no multiple of the linear attention's chunks: of pixels, tokens.
SIZE = 96


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("model", MODERN, ids=lambda model: model.name)
def test_a_model_is_served_from_its_plan(model: Model) -> None:
    torch.manual_seed(0)
    workload = model.build(2, SIZE)
    optimized = memomalloc.optimize(workload.model)
    with torch.inference_mode(), warnings.catch_warnings():
        expected = workload.caller(workload.model)()
        for _ in range(5):
            assert same_bits(workload.caller(optimized)(), expected)
    assert all(tensor.isfinite().all() for tensor in tensors_in(expected))
    stats = memomalloc.stats(optimized)
    assert stats.runs_replayed >= 3
    assert stats.served_share == 1


def outputs(name: str, size: int) -> torch.Tensor:
    (model,) = (model for model in MODERN if model.name == name)
    torch.manual_seed(0)
    workload = model.build(1, size)
    with torch.inference_mode():
        return tensors_in(workload.caller(workload.model)())[0]


def test_images_have_their_sizes() -> None:
    assert outputs("vae_decoder", 64).shape == (1, 3, 64, 64)
    assert outputs("unet_step", 72).shape == (1, 4, 9, 9)


def test_linear_attention_in_chunks_is_that_in_one() -> None:
    from memomalloc.bench.modern_models import _LinearAttention

    torch.manual_seed(0)
    attention = _LinearAttention().double()
    hidden = torch.randn(1, 100, 384, dtype=torch.float64)
    with torch.inference_mode():
        in_chunks = attention(hidden)[0]
        attention.CHUNK = 128
        torch.testing.assert_close(attention(hidden)[0], in_chunks)


def test_a_step_with_a_cache_is_the_end_of_a_prefill() -> None:
    from memomalloc.bench.modern_models import Decoder

    torch.manual_seed(0)
    decoder, tokens = Decoder().eval().double(), torch.randint(0, 8192, (1, 17))
    with torch.inference_mode():
        expected, _ = decoder(tokens)
        _, kept = decoder(tokens[:, :-1])
        torch.testing.assert_close(decoder(tokens[:, -1:], kept)[0], expected)
