"""segmentation-models-pytorch: called, by its ``predict``, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

smp = pytest.importorskip("segmentation_models_pytorch")


def unet() -> Any:
    torch.manual_seed(0)
    return smp.Unet("mobilenet_v2", encoder_weights=None, classes=2).eval()


def image(seed: int) -> torch.Tensor:
    return torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
def test_images_are_segmented(inplace: bool) -> None:
    plain, planned = unet(), memomalloc.optimize(unet(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(image(seed)), lambda seed: planned(image(seed)), planned)
    assert_as_plain(lambda seed: plain.predict(image(seed)), lambda seed: planned.predict(image(seed)), planned)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    planned = memomalloc.optimize(unet())
    planned.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(str(tmp_path)).eval()
    with torch.inference_mode():
        assert_same(loaded(image(0)), unet()(image(0)))
