"""The models of the paper (Levental 2022, figure 5), from torchvision and with random weights."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from memomalloc.bench import dcgan
from memomalloc.bench.model import Model
from memomalloc.bench.workload import Workload
from memomalloc.errors import MissingDependencyError

try:
    models: Any = importlib.import_module("torchvision.models")
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
    raise MissingDependencyError(
        f"the suite `paper` needs a torchvision that fits this torch ({error}). Run: make bench-paper, which makes an "
        "environment with both"
    ) from error

#: Options without which a definition would download weights, or spend minutes on drawing them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "fcn_resnet50": {"weights_backbone": None},
    "deeplabv3_resnet50": {"weights_backbone": None},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


def _build(name: str, batch: int, size: int) -> Workload:
    model = models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    return Workload(model.eval(), torch.randn(batch, 3, size, size))


def _build_dcgan(batch: int, size: int) -> Workload:
    return Workload(dcgan.Generator().eval(), dcgan.noise(batch, size))


def _model(name: str) -> Model:
    return Model(name, functools.partial(_build, name), (224,))


#: The suite ``paper``.
PAPER = (
    *map(
        _model,
        (
            "alexnet",
            "vgg16",
            "squeezenet1_0",
            "resnet18",
            "wide_resnet50_2",
            "fcn_resnet50",
            "googlenet",
            "deeplabv3_resnet50",
            "inception_v3",
            "regnet_x_8gf",
            "densenet161",
            "shufflenet_v2_x0_5",
            "resnext101_32x8d",
            "mobilenet_v3_small",
            "mnasnet0_5",
            "deeplabv3_mobilenet_v3_large",
            "mnasnet0_75",
        ),
    ),
    Model("dcgan", _build_dcgan, (224,)),
)
