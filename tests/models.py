"""Models that the tests run: real definitions with random weights, and small ones with a known behaviour."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class RealModel:
    """A definition from ``transformers``, made small.

    Attributes:
        name: of the test.
        build: a fresh module in eval mode, the same weights every time.
        inputs: positional arguments; other values for another seed, the same shapes.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], Inputs]

    def __str__(self) -> str:
        return self.name


class _FirstOutput(torch.nn.Module):
    """Takes positional tensors and returns one tensor, as tracing and exporting like it."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        outputs = self.module(**dict(zip(self.names, args, strict=True)), return_dict=False)
        return outputs[0]


def _transformer(model: str, names: tuple[str, ...], config: Mapping[str, Any]) -> torch.nn.Module:
    module, _, name = model.rpartition(".")
    definition = getattr(importlib.import_module(f"transformers.{module}".rstrip(".")), name)
    torch.manual_seed(0)
    made = definition(definition.config_class(**config))
    return _FirstOutput(made, names).eval()


def _tokens(shape: tuple[int, int], seed: int) -> Inputs:
    return (torch.randint(0, 90, shape, generator=torch.Generator().manual_seed(seed)),)


def _floats(shape: tuple[int, ...], seed: int) -> Inputs:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)),)


def image_model(name: str, model: str, size: int = 64, batch: int = 2, **config: Any) -> RealModel:
    """A definition of ``transformers`` that takes images."""
    return RealModel(
        name,
        functools.partial(_transformer, model, ("pixel_values",), config),
        functools.partial(_floats, (batch, 3, size, size)),
    )


def _token_model(name: str, model: str, length: int = 24, **config: Any) -> RealModel:
    return RealModel(
        name,
        functools.partial(_transformer, model, ("input_ids",), {"vocab_size": 100, **config}),
        functools.partial(_tokens, (2, length)),
    )


REAL_MODELS = (
    image_model("mobilenet_v2", "MobileNetV2Model", depth_multiplier=0.35),
    image_model(
        "resnet", "ResNetModel", embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic"
    ),
    image_model("convnext", "ConvNextModel", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    image_model(
        "vit", "ViTModel", hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        image_size=64,
    ),
    _token_model(
        "bert", "BertModel", hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    ),
    _token_model("gpt2_prefill", "GPT2Model", n_embd=64, n_layer=2, n_head=2, use_cache=False),
    _token_model("t5_encoder", "T5EncoderModel", d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2),
    RealModel(
        "whisper_encoder",
        functools.partial(
            _transformer,
            "models.whisper.modeling_whisper.WhisperEncoder",
            ("input_features",),
            {
                "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128,
                "max_source_positions": 50, "num_mel_bins": 20,
            },
        ),
        functools.partial(_floats, (2, 20, 100)),
    ),
)  # fmt: skip


class ConvNet(torch.nn.Module):
    """Convolutions large enough for oneDNN scratchpads and for upstream to use ``mmap``; can be scripted."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.third = torch.nn.Conv2d(channels, 2 * channels, 1)
        self.head = torch.nn.Linear(2 * channels, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(images)))
        hidden = hidden + torch.relu(self.second(hidden))
        hidden = torch.relu(self.third(hidden))
        return self.head(hidden.mean(dim=(2, 3)))


def conv_net() -> ConvNet:
    """The same weights every time, in eval mode."""
    torch.manual_seed(0)
    return ConvNet().eval()


def images(seed: int, batch: int = 2, size: int = 48) -> torch.Tensor:
    """Inputs of :class:`ConvNet`."""
    return torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(seed))


class Chain(torch.nn.Module):
    """``depth`` steps on tensors of one size; step by step it hands its intermediate tensors to ``visit``.

    Each step allocates two tensors of the input's size, of which the first dies in the step. What ``visit`` does
    (keep, free elsewhere, raise, allocate, fork) is how the tests make a model misbehave in the middle of a run.
    """

    def __init__(self, depth: int = 6, visit: Callable[[int, torch.Tensor], object] | None = None) -> None:
        super().__init__()
        self.depth = depth
        self.visit = visit

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for step in range(self.depth):
            values = torch.sin(values) + values
            if self.visit is not None:
                self.visit(step, values)
        return values


def chain_values(seed: int, num_values: int = 1000) -> torch.Tensor:
    """Inputs of :class:`Chain`."""
    return torch.randn(num_values, generator=torch.Generator().manual_seed(seed))


def chain_result(values: torch.Tensor, depth: int = 6) -> torch.Tensor:
    """What :class:`Chain` computes, from an unwrapped model."""
    return Chain(depth)(values)


class Steps(torch.nn.Module):
    """A program given by ``sizes``: each step allocates a tensor of so many floats, and two small ones.

    The small ones keep the sum of what was allocated so far, so that a byte that two tensors share shows in the
    result. With ``keep``, the tensor of each step lives until the end.
    """

    def __init__(self, sizes: Sequence[int], keep: bool = False) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.keep = keep

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        total = torch.sin(values[0])
        kept = []
        for size in self.sizes:
            part = torch.sin(values[:size])
            total = total + part.sum()
            if self.keep:
                kept.append(part)
        for part in kept:
            total = total + part.sum()
        return total
