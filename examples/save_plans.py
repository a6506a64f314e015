"""Learn the plans of the examples' model once, to be shipped with it.

python examples/save_plans.py image_model.plans
"""

from __future__ import annotations

import sys

import torch
from image_model import build, images

import memomalloc


def main(path: str) -> None:
    """Write a file of plans."""
    with torch.inference_mode():
        model = memomalloc.optimize(build(), example_inputs=images(0))
    print(f"saved {model.save_plans(path)} plan to {path}: {model.plans[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
