"""timm: models by name, their features, and what its tools do with models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

timm = pytest.importorskip("timm")

NAMES = ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"]


def model(name: str) -> Any:
    torch.manual_seed(0)
    size = {"img_size": 64} if name.startswith("vit") else {}
    return timm.create_model(name, pretrained=False, num_classes=10, **size).eval()


def images(seed: int) -> torch.Tensor:
    return torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_images_are_classified(name: str, inplace: bool) -> None:
    plain, planned = model(name), memomalloc.optimize(model(name), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(images(seed)), lambda seed: planned(images(seed)), planned)


@pytest.mark.parametrize("options", [{}, {"methods": ["forward_features"]}], ids=str)
def test_features_are_extracted(options: dict[str, Any]) -> None:
    plain, planned = model(NAMES[0]), memomalloc.optimize(model(NAMES[0]), **options)
    with torch.inference_mode():
        assert_as_plain(
            lambda seed: plain.forward_features(images(seed)),
            lambda seed: planned.forward_features(images(seed)),
            planned,
        )


def test_averages_and_copies_are_models() -> None:
    planned = memomalloc.optimize(model(NAMES[0]))
    average = timm.utils.ModelEmaV3(planned)
    average.update(planned)
    with torch.inference_mode():
        assert_same(average.module(images(0)), model(NAMES[0])(images(0)))
        assert_same(copy.deepcopy(planned)(images(0)), model(NAMES[0])(images(0)))
    assert list(timm.utils.unwrap_model(planned).state_dict()) == list(model(NAMES[0]).state_dict())
