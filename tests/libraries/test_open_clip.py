"""open_clip: images and texts are encoded by methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain

open_clip = pytest.importorskip("open_clip")


def clip() -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        text_cfg={"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2},
    ).eval()


def image(seed: int) -> torch.Tensor:
    return torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def text(seed: int) -> torch.Tensor:
    return torch.randint(1, 99, (2, 16), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"methods": ["encode_image", "encode_text"]}], ids=str)
def test_images_and_texts_are_encoded(options: dict[str, Any]) -> None:
    plain, planned = clip(), memomalloc.optimize(clip(), **options)
    with torch.inference_mode():
        for method, inputs in (("encode_image", image), ("encode_text", text)):
            assert_as_plain(
                lambda seed, method=method, inputs=inputs: getattr(plain, method)(inputs(seed)),
                lambda seed, method=method, inputs=inputs: getattr(planned, method)(inputs(seed)),
                planned,
            )
        assert_as_plain(
            lambda seed: plain(image(seed), text(seed)), lambda seed: planned(image(seed), text(seed)), planned
        )
