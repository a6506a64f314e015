"""Models of today, with random weights and no other package than torch: diffusion, decoders, experts, linear attention.

Each has the operators and the shapes of its kind in the width of a small one, so that a call takes seconds at most on
one core.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from memomalloc.bench.model import Model
from memomalloc.bench.workload import Workload

_VOCABULARY = 8192
_WIDTH = 384
_HEADS = 6
_LAYERS = 4


class _Residual(nn.Module):
    """The block of diffusion models: normalize, activate, convolve, twice; and what a step of time adds."""

    def __init__(self, incoming: int, outgoing: int, time_width: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(16, incoming), nn.SiLU(), nn.Conv2d(incoming, outgoing, 3, padding=1))
        self.time = nn.Linear(time_width, outgoing) if time_width else None
        self.second = nn.Sequential(nn.GroupNorm(16, outgoing), nn.SiLU(), nn.Conv2d(outgoing, outgoing, 3, padding=1))
        self.short = nn.Conv2d(incoming, outgoing, 1) if incoming != outgoing else nn.Identity()

    def forward(self, features: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.first(features)
        if self.time is not None and time is not None:
            hidden = hidden + self.time(time)[:, :, None, None]
        return self.short(features) + self.second(hidden)  # type: ignore[no-any-return]


class _PixelAttention(nn.Module):
    """Attention between all places of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.inputs, self.output = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = features.shape
        query, key, value = self.inputs(self.norm(features)).flatten(2).transpose(1, 2).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return features + self.output(mixed.transpose(1, 2).reshape(batch, channels, height, width))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """One step of denoising: latents of n x n, and which step it is, to the noise in them (Ho et al. 2020)."""

    def __init__(self, channels: tuple[int, ...] = (96, 192, 288)) -> None:
        super().__init__()
        self.time_width = 4 * channels[0]
        self.start = nn.Conv2d(4, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for incoming, outgoing in zip((channels[0], *channels), channels, strict=False):
            self.down.append(_Residual(incoming, outgoing, self.time_width))
        self.middle = nn.ModuleList(
            [_Residual(channels[-1], channels[-1], self.time_width), _PixelAttention(channels[-1])]
        )
        for incoming, outgoing in zip(reversed(channels), (*reversed(channels[:-1]), channels[0]), strict=True):
            self.up.append(_Residual(2 * incoming, outgoing, self.time_width))
        self.end = nn.Sequential(nn.GroupNorm(16, channels[0]), nn.SiLU(), nn.Conv2d(channels[0], 4, 3, padding=1))

    def forward(self, latents: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Noise of the shape of the latents."""
        frequencies = torch.exp(-math.log(10_000) * torch.arange(self.time_width // 2) / (self.time_width // 2))
        angles = step[:, None] * frequencies
        time = torch.cat([angles.sin(), angles.cos()], 1)
        features, kept = self.start(latents), []
        for number, block in enumerate(self.down):
            features = block(functional.avg_pool2d(features, 2) if number else features, time)
            kept.append(features)
        residual, attention = self.middle
        features = attention(residual(features, time))
        for block in self.up:
            same = kept.pop()
            features = functional.interpolate(features, size=same.shape[2:])
            features = block(torch.cat([features, same], 1), time)
        return self.end(features)  # type: ignore[no-any-return]


def _vae_decoder() -> nn.Module:
    """Latents to images eight times as large, as of Stable Diffusion (Rombach et al. 2022), at half its width."""
    layers: list[nn.Module] = [nn.Conv2d(4, 256, 3, padding=1), _Residual(256, 256), _PixelAttention(256)]
    for incoming, outgoing in ((256, 256), (256, 128), (128, 64)):
        layers += [_Residual(incoming, outgoing), nn.Upsample(scale_factor=2.0)]
        layers += [nn.Conv2d(outgoing, outgoing, 3, padding=1)]
    return nn.Sequential(*layers, _Residual(64, 64), nn.GroupNorm(16, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1))


def _heads(values: torch.Tensor) -> torch.Tensor:
    """b x n x width to b x heads x n x width of a head."""
    batch, length, width = values.shape
    return values.reshape(batch, length, _HEADS, width // _HEADS).transpose(1, 2)


class _Attention(nn.Module):
    """Attention over what came before; keys and values of earlier calls may be given."""

    def __init__(self, *, causal: bool = True) -> None:
        super().__init__()
        self.inputs, self.output = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.causal = causal

    def forward(self, hidden: torch.Tensor, past: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = (_heads(part) for part in self.inputs(hidden).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal and past is None)
        return self.output(mixed.transpose(1, 2).flatten(2)), torch.stack([key, value])


class _LinearAttention(nn.Module):
    """Gated linear attention in chunks (Yang et al. 2024): a state that decays, in place of keys and values."""

    CHUNK = 64

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.output = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.decay = nn.Parameter(torch.linspace(0.9, 0.999, _HEADS))

    def forward(self, hidden: torch.Tensor, past: None = None) -> tuple[torch.Tensor, None]:
        query, key, value, gate = (_heads(part) for part in self.inputs(hidden).chunk(4, -1))
        places = torch.arange(self.CHUNK)
        decay = self.decay[:, None, None]
        within = decay ** (places[:, None] - places).clamp(min=0) * (places[:, None] >= places)
        state = torch.zeros(*key.shape[:2], key.shape[-1], value.shape[-1], dtype=key.dtype)
        outputs = []
        for start in range(0, query.shape[2], self.CHUNK):
            part = slice(start, start + self.CHUNK)
            queries, keys, values = query[:, :, part], key[:, :, part], value[:, :, part]
            length = queries.shape[2]
            age = decay ** (places[:length, None] + 1)
            inside = (queries @ keys.transpose(-1, -2)) * within[:, :length, :length]
            outputs.append(inside @ values + (queries * age) @ state)
            fading = decay ** (length - 1 - places[:length, None])
            state = decay**length * state + (keys * fading).transpose(-1, -2) @ values
        mixed = torch.cat(outputs, 2) * functional.silu(gate)
        return self.output(mixed.transpose(1, 2).flatten(2)), None


class _Dense(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))


class _Experts(nn.Module):
    """Each token goes to two of eight networks (Jiang et al. 2024): how many come to each depends on the tokens."""

    def __init__(self, num_experts: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(_WIDTH, num_experts)
        self.experts = nn.ModuleList(_Dense() for _ in range(num_experts))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.flatten(0, 1)
        weights, chosen = self.router(tokens).softmax(-1).topk(2, -1)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            result.index_add_(0, rows, expert(tokens[rows]) * weights[rows, place, None])
        return result.view_as(hidden)


class _Layer(nn.Module):
    def __init__(self, attention: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(_WIDTH), attention
        self.before_network, self.network = nn.LayerNorm(_WIDTH), network

    def forward(self, hidden: torch.Tensor, past: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        mixed, kept = self.attention(self.before_attention(hidden), past)
        hidden = hidden + mixed
        return hidden + self.network(self.before_network(hidden)), kept


class Decoder(nn.Module):
    """Tokens to scores of the next one, in layers of attention and a network.

    Args:
        attention: makes the attention of a layer.
        network: makes the network of a layer.
    """

    def __init__(
        self, attention: Callable[[], nn.Module] = _Attention, network: Callable[[], nn.Module] = _Dense
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_VOCABULARY, _WIDTH)
        self.layers = nn.ModuleList(_Layer(attention(), network()) for _ in range(_LAYERS))
        self.scores = nn.Linear(_WIDTH, _VOCABULARY, bias=False)

    def forward(
        self, tokens: torch.Tensor, past: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Scores of b x vocabulary after the last token, and keys and values for the next call."""
        hidden, kept = self.embedding(tokens), []
        for number, layer in enumerate(self.layers):
            hidden, cache = layer(hidden, None if past is None else past[number])
            kept.append(cache)
        return self.scores(hidden[:, -1]), kept


def _tokens(batch: int, size: int) -> torch.Tensor:
    return torch.randint(0, _VOCABULARY, (batch, size))


def _unet_step(batch: int, size: int) -> Workload:
    latents = torch.randn(batch, 4, size // 8, size // 8)
    return Workload(UNet().eval(), (latents, torch.full((batch,), 500.0)))


def _vae_decoding(batch: int, size: int) -> Workload:
    return Workload(_vae_decoder().eval(), torch.randn(batch, 4, size // 8, size // 8))


def _prefill(batch: int, size: int, **parts: Callable[[], nn.Module]) -> Workload:
    return Workload(Decoder(**parts).eval(), _tokens(batch, size))


def _step(batch: int, size: int) -> Workload:
    """One more token after ``size`` others."""
    past = [torch.randn(2, batch, _HEADS, size, _WIDTH // _HEADS) for _ in range(_LAYERS)]
    return Workload(Decoder().eval(), (_tokens(batch, 1), past))


def _encoder() -> nn.Module:
    return Decoder(attention=functools.partial(_Attention, causal=False)).eval()


def _int8(batch: int, size: int) -> Workload:
    """Linear layers with weights of eight bits, and inputs that are quantized in each call."""
    model = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        _encoder(), {nn.Linear}, dtype=torch.qint8
    )
    return Workload(model, _tokens(batch, size))


def _bfloat16(batch: int, size: int) -> Workload:
    return Workload(_encoder().to(torch.bfloat16), _tokens(batch, size))


#: The suite ``modern``.
MODERN = (
    Model("unet_step", _unet_step, (512,)),
    Model("vae_decoder", _vae_decoding, (512,)),
    Model("decoder_prefill", _prefill, (1024, 4096), "tokens"),
    Model("decoder_step", _step, (1024, 4096), "tokens"),
    Model("mixture_of_experts", functools.partial(_prefill, network=_Experts), (256,), "tokens"),
    Model("linear_attention", functools.partial(_prefill, attention=_LinearAttention), (1024,), "tokens"),
    Model("encoder_int8", _int8, (128,), "tokens"),
    Model("encoder_bfloat16", _bfloat16, (128,), "tokens"),
)
