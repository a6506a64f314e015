"""Processes whose memory is measured: each holds models, and calls them as servers do."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

#: Calls the models of the process, planned or not, in an order of chance, and returns what the program has then.
Round = Callable[[Sequence[Any], random.Random], Any]


@dataclass(frozen=True)
class Work:
    """What a process holds and does.

    Attributes:
        models: without plans.
        call_all: one round.
        calls_a_round: of models.
    """

    models: list[nn.Module]
    call_all: Round
    calls_a_round: int


@dataclass(frozen=True)
class MemoryProcess:
    """A process to be measured.

    Attributes:
        name: as rows and options call it.
        what: it holds and does, for readers.
        build: makes its models and calls; told whether all is to be small.
        shapes: the policies under which it is planned.
        idle_s: how long it lies idle before its memory is read.
    """

    name: str
    what: str
    build: Callable[[bool], Work]
    shapes: tuple[str, ...] = ("auto",)
    idle_s: float = 0.0


def _six_models(smoke: bool) -> Work:
    # Imported where it is used: transformers takes seconds, and not every process needs it.
    from memomalloc.bench.transformers_models import transformers as made

    models: list[nn.Module] = [
        made.MobileNetV2Model(made.MobileNetV2Config()),
        made.MobileNetV2Model(made.MobileNetV2Config(depth_multiplier=0.75)),
        made.ResNetModel(made.ResNetConfig()),
        made.ConvNextModel(made.ConvNextConfig()),
        made.RegNetModel(made.RegNetConfig()),
        # The sizes of B0; the defaults are those of B7.
        made.EfficientNetModel(made.EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)),
    ]
    batch, size = (1, 32) if smoke else (4, 224)
    return _in_random_order(models, [(number, torch.randn(batch, 3, size, size)) for number in range(len(models))])


def _many_sizes(smoke: bool) -> Work:
    from memomalloc.bench.transformers_models import transformers as made

    sides = range(32, 97, 32) if smoke else range(160, 289, 32)
    inputs = [(0, torch.randn(2, 3, height, width)) for height in sides for width in sides]
    return _in_random_order([made.ResNetModel(made.ResNetConfig(depths=[1, 1, 1, 1]))], inputs)


def _in_random_order(models: list[nn.Module], calls: Sequence[tuple[int, torch.Tensor]]) -> Work:
    """Each call (which model, with what) once a round; the program has the outputs of the last call."""

    def call_all(models: Sequence[Any], order: random.Random) -> Any:
        outputs = None
        for number, inputs in order.sample(calls, len(calls)):
            outputs = models[number](inputs)
        return outputs

    return Work(models, call_all, len(calls))


#: Requests that are answered at one time, each by a thread that is started for it.
REQUESTS_AT_ONCE = 8


def _threads(smoke: bool) -> Work:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 32), (32, 16)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
    cnn = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    batch, size = (1, 64) if smoke else (4, 224)
    inputs = torch.randn(batch, 3, size, size)

    def answer(model: Any) -> None:
        # Modes of torch belong to a thread, and a new one has none.
        with torch.inference_mode():
            model(inputs)

    def burst(models: Sequence[Any], order: random.Random) -> None:
        threads = [threading.Thread(target=answer, args=models) for _ in range(REQUESTS_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Work([cnn], burst, REQUESTS_AT_ONCE)


#: All there are, by name.
PROCESSES = {
    process.name: process
    for process in (
        MemoryProcess(
            "six-models",
            "MobileNetV2 (1.0 and 0.75), ResNet-50, ConvNeXt, RegNet and EfficientNet in turn, batch 4, 224 pixels",
            _six_models,
        ),
        MemoryProcess(
            "25-sizes",
            "one ResNet (1, 1, 1, 1), batch 2, images of 160 to 288 pixels by 32, both sides: 25 sizes",
            _many_sizes,
            shapes=("exact", "bucketed", "merged", "auto"),
        ),
        MemoryProcess(
            "threads",
            f"a small convolutional network, batch 4, 224 pixels, {REQUESTS_AT_ONCE} requests at one time, a new "
            "thread for each, then idle for 8 seconds",
            _threads,
            idle_s=8.0,
        ),
    )
}
