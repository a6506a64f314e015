"""monai: networks that a sliding window calls again and again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain
from models import chain_values

monai = pytest.importorskip("monai")
inferers = pytest.importorskip("monai.inferers")
nets = pytest.importorskip("monai.networks.nets")


def unet() -> Any:
    torch.manual_seed(0)
    return nets.UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2)).eval()


def scan(seed: int, size: int) -> torch.Tensor:
    return chain_values(seed, size * size).reshape(1, 1, size, size)


@pytest.mark.parametrize("inplace", [False, True])
def test_scans_are_segmented(inplace: bool) -> None:
    plain, planned = unet(), memomalloc.optimize(unet(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(scan(seed, 64)), lambda seed: planned(scan(seed, 64)), planned)


def test_a_sliding_window_is_planned() -> None:
    plain, planned = unet(), memomalloc.optimize(unet())

    def slide(model: Any, seed: int) -> Any:
        return inferers.sliding_window_inference(scan(seed, 96), (64, 64), 2, model, overlap=0.5)

    with torch.inference_mode():
        assert_as_plain(lambda seed: slide(plain, seed), lambda seed: slide(planned, seed), planned)
