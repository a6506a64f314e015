"""The model that the examples serve: a small convolutional net with random weights, the same in every process."""

from __future__ import annotations

import itertools

import torch

BATCH, SIZE = 4, 96


class ImageModel(torch.nn.Module):
    """Classifies images of three channels."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 16, 32, 64)
        self.steps = torch.nn.Sequential(
            *(
                torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.BatchNorm2d(b), torch.nn.ReLU())
                for a, b in itertools.pairwise(channels)
            )
        )
        self.head = torch.nn.Linear(channels[-1], 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of each image."""
        return self.head(self.steps(images).mean(dim=(2, 3)))


def build() -> ImageModel:
    """The model, ready to serve."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return ImageModel().eval()


def images(seed: int) -> torch.Tensor:
    """A request."""
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
