"""diffusers: pipelines whose parts are optimized, and autoencoders by their methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

diffusers = pytest.importorskip("diffusers")


def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        layers_per_block=1,
    ).eval()  # fmt: skip


def autoencoder() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8).eval()  # fmt: skip


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_pipeline_makes_the_same_images(inplace: bool) -> None:
    plain, planned = (diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()) for _ in range(2))
    planned.unet = memomalloc.optimize(planned.unet, inplace=inplace, shapes="auto")
    for pipeline in (plain, planned):
        pipeline.set_progress_bar_config(disable=True)

    def images(pipeline: Any, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return pipeline(generator=generator, num_inference_steps=4, output_type="np").images

    assert_as_plain(lambda seed: images(plain, seed), lambda seed: images(planned, seed), planned.unet)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_pipeline_is_saved_whole(inplace: bool, tmp_path: Path) -> None:
    pipeline = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
    pipeline.unet = memomalloc.optimize(pipeline.unet, inplace=inplace)
    pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.unet) is diffusers.UNet2DModel
    assert_same(loaded.unet.state_dict(), unet().state_dict())


@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"methods": ["decode"]}], ids=str)
def test_an_autoencoder_decodes(options: dict[str, Any]) -> None:
    plain, planned = autoencoder(), memomalloc.optimize(autoencoder(), **options)
    with torch.inference_mode():
        assert_as_plain(
            lambda seed: plain.decode(noise(seed, 1, 4, 8, 8)).sample,
            lambda seed: planned.decode(noise(seed, 1, 4, 8, 8)).sample,
            planned,
        )
        if not options:
            assert_as_plain(
                lambda seed: plain.encode(noise(seed, 1, 3, 16, 16)).latent_dist.mean,
                lambda seed: planned.encode(noise(seed, 1, 3, 16, 16)).latent_dist.mean,
                planned,
            )
