"""The generator of DCGAN (Radford et al., 2015), as in PyTorch's examples; no package has it."""

from __future__ import annotations

import itertools

import torch
from torch import nn

NOISE_CHANNELS = 100
_WIDTH = 64


class Generator(nn.Module):
    """Noise of n x n points to images of 16 (n + 3) x 16 (n + 3) pixels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [NOISE_CHANNELS, 8 * _WIDTH, 4 * _WIDTH, 2 * _WIDTH, _WIDTH]
        for depth, (incoming, outgoing) in enumerate(itertools.pairwise(channels)):
            stride, padding = (1, 0) if depth == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(incoming, outgoing, 4, stride, padding, bias=False),
                nn.BatchNorm2d(outgoing),
                nn.ReLU(inplace=True),
            ]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(_WIDTH, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1]."""
        images: torch.Tensor = self.main(noise)
        return images


def noise(batch: int, image_size: int) -> torch.Tensor:
    """Input for images of ``image_size``, which is a multiple of 16 from 64 on.

    Raises:
        ValueError: the generator makes no images of this size.
    """
    if image_size < 64 or image_size % 16:
        raise ValueError(f"DCGAN makes images of 64, 80, 96 ... pixels, not {image_size}")
    points = image_size // 16 - 3
    return torch.randn(batch, NOISE_CHANNELS, points, points)
