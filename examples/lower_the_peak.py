"""A small segmentation of images that holds on to more than it needs; `memomalloc advise` says what to change.

Run ``memomalloc advise examples/lower_the_peak.py``; with ``--changed`` the program is what it advises.
"""

from __future__ import annotations

import sys

import torch

CLASSES, IMAGES = 21, 6


class Segmentation(torch.nn.Module):
    """Names a class for each pixel, from the image at full and at half size."""

    def __init__(self, *, changed: bool) -> None:
        super().__init__()
        self.changed = changed
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.up = torch.nn.Upsample(scale_factor=2)
        self.head = torch.nn.Conv2d(48, CLASSES, 1)
        self.act = torch.nn.ReLU(inplace=changed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of each class at each pixel."""
        full = self.act(self.first(images))
        half = self.up(self.act(self.second(full)))
        both = torch.cat([full, half], dim=1)
        if self.changed:
            del full, half
        return self.head(both)


def classes_of(model: torch.nn.Module, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """The class of each pixel."""
    scores = [model(image) for image in images]
    return [score.argmax(dim=1) for score in scores]


def classes_of_one_by_one(model: torch.nn.Module, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same, with the scores of one image at a time."""
    return [model(image).argmax(dim=1) for image in images]


def main(*, changed: bool) -> None:
    """Classify some images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Segmentation(changed=changed).eval()
    images = [torch.randn(1, 3, 128, 128) for _ in range(IMAGES)]
    with torch.inference_mode():
        found = (classes_of_one_by_one if changed else classes_of)(model, images)
    print(f"class {torch.stack(found).flatten().mode().values.item()} is the most frequent one")


if __name__ == "__main__":
    main(changed="--changed" in sys.argv)
