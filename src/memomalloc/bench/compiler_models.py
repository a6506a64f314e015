"""Models whose graphs are harder to plan than those of the other suites: concatenations, many tensors alive at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from memomalloc.bench.model import Model
from memomalloc.bench.workload import Workload
from memomalloc.extras import require


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False)),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, self.layers(features)], 1)


def _dense_net(growth: int, blocks: tuple[int, ...]) -> nn.Module:
    """DenseNet: Huang et al. 2017, Densely connected convolutional networks."""
    channels = 2 * growth
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    ]
    for place, num_layers in enumerate(blocks):
        for _ in range(num_layers):
            layers.append(_DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if place < len(blocks) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)).eval()


def _densenet_121(batch: int, size: int) -> Workload:
    return Workload(_dense_net(32, (6, 12, 24, 16)), torch.randn(batch, 3, size, size))


def _llama(batch: int, size: int) -> Workload:
    transformers: Any = require("transformers", extra="demo", feature="this suite")
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=6, num_attention_heads=8, vocab_size=8192
    )
    config.use_cache = False
    model = transformers.LlamaForCausalLM(config).eval()
    return Workload(model, {"input_ids": torch.randint(0, config.vocab_size, (batch, size))})


#: The suite ``compilers``.
COMPILERS = (
    Model("densenet_121", _densenet_121, (224,)),
    Model("llama_small", _llama, (128,), "tokens"),
)
