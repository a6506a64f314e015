"""Programs whose tensors differ from call to call: shapes that vary, branches that depend on data, caches that grow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import memomalloc
from serving import assert_equal_bits

#: Model calls of one generation.
NEW_TOKENS = 4


def random_numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(length: int, seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(3, 90, (batch, length), generator=random_numbers(seed))


def transformer(name: str, **config: Any) -> Any:
    """A model of ``transformers`` with random weights, the same every time, in eval mode."""
    definition = getattr(importlib.import_module("transformers"), name)
    torch.manual_seed(0)
    return definition(definition.config_class(**config)).eval()


def bert() -> Any:
    return transformer(
        "BertModel", vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )


def gpt2() -> Any:
    return transformer(
        "GPT2LMHeadModel", vocab_size=100, n_embd=64, n_layer=2, n_head=2, n_positions=256, bos_token_id=1,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def llama() -> Any:
    return transformer(
        "LlamaForCausalLM", vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, max_position_embeddings=256, bos_token_id=1, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip


def t5() -> Any:
    return transformer(
        "T5ForConditionalGeneration", vocab_size=100, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2,
        decoder_start_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


class Detector(torch.nn.Module):
    """Finds boxes: how many there are, and how many survive their suppression, depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
        )
        self.score = torch.nn.Conv2d(32, 1, 1)
        self.box = torch.nn.Conv2d(32, 4, 1)
        self.describe = torch.nn.Linear(32, 8)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.backbone(image)
        scores = self.score(features).flatten()
        found = (scores > scores.mean() + 1.5 * scores.std()).nonzero().flatten()
        boxes = self.box(features).flatten(2)[0].T[found]
        kept = self._suppress(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:].abs()], 1), scores[found])
        described = self.describe(features.flatten(2)[0].T[found[kept]])
        return boxes[kept], scores[found[kept]], described

    def _suppress(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        order = scores.argsort(descending=True)
        kept = []
        while order.numel() > 0 and len(kept) < 8:
            first, rest = order[0], order[1:]
            kept.append(first)
            low = torch.maximum(boxes[first, :2], boxes[rest, :2])
            high = torch.minimum(boxes[first, 2:], boxes[rest, 2:])
            overlap = (high - low).clamp(min=0).prod(1)
            area = (boxes[rest, 2:] - boxes[rest, :2]).prod(1)
            order = rest[overlap < 0.3 * area]
        return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


class MixtureOfExperts(torch.nn.Module):
    """Each token goes to two of the experts; who gets how many tokens, and who none, depends on the tokens."""

    def __init__(self, width: int = 64, num_experts: int = 4, num_layers: int = 2) -> None:
        super().__init__()
        self.routers = torch.nn.ModuleList(torch.nn.Linear(width, num_experts) for _ in range(num_layers))
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(
                torch.nn.Sequential(
                    torch.nn.Linear(width, 2 * width), torch.nn.GELU(), torch.nn.Linear(2 * width, width)
                )
                for _ in range(num_experts)
            )
            for _ in range(num_layers)
        )  # fmt: skip

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for router, experts in zip(self.routers, self.layers, strict=True):
            weights, chosen = router(hidden).softmax(-1).topk(2)
            result = torch.zeros_like(hidden)
            for number, expert in enumerate(experts):
                token, rank = (chosen == number).nonzero(as_tuple=True)
                if token.numel() > 0:
                    result.index_add_(0, token, expert(hidden[token]) * weights[token, rank, None])
            hidden = hidden + result
        return hidden


class EarlyExit(torch.nn.Module):
    """Stops after any of its layers, whichever is sure enough."""

    def __init__(self, width: int = 128, num_layers: int = 6) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(num_layers))
        self.exits = torch.nn.ModuleList(torch.nn.Linear(width, 10) for _ in range(num_layers))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer, leave in zip(self.layers, self.exits, strict=True):
            values = values + torch.tanh(layer(values))
            logits = leave(values)
            if logits.softmax(-1).amax() > 0.32:
                return logits
        return logits


def train_step() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A whole step: forward, backward, optimizer. Two made alike go the same way."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(), torch.nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@dataclass(frozen=True)
class DynamicProgram:
    """A program and the calls that are made of it.

    Attributes:
        name: of the test.
        build: a fresh one, the same every time; wrapped by ``optimize``.
        inputs: the arguments of call ``seed``.
        call: what is called of a program, if it is not the program itself.
        inplace: whether ``call`` only profits if the program is optimized in place.
        grad: whether it needs gradients.
    """

    name: str
    build: Callable[[], Any]
    inputs: Callable[[int], tuple[Any, ...]]
    call: Callable[..., Any] = lambda program, *args: program(*args)
    inplace: bool = False
    grad: bool = False

    def __str__(self) -> str:
        return self.name


def _one_of(low: int, high: int, seed: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=random_numbers(seed)))


def _floats(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=random_numbers(seed))


def _detector() -> Detector:
    torch.manual_seed(0)
    return Detector().eval()


def _experts() -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts().eval()


def _early_exit() -> EarlyExit:
    torch.manual_seed(0)
    return EarlyExit().eval()


def _generate(program: Any, prompt: torch.Tensor) -> torch.Tensor:
    return program.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False)


def _prompt(seed: int) -> tuple[torch.Tensor]:
    return (tokens(_one_of(2, 40, seed), seed),)


PROGRAMS = (
    DynamicProgram(
        "bert", bert, lambda seed: (tokens(_one_of(8, 512, seed), seed),), lambda program, ids: program(ids)[0]
    ),
    DynamicProgram("gpt2", gpt2, _prompt, _generate, inplace=True),
    DynamicProgram("llama", llama, _prompt, _generate, inplace=True),
    DynamicProgram("t5", t5, _prompt, _generate, inplace=True),
    DynamicProgram(
        "detector",
        _detector,
        lambda seed: (_floats(1, 3, 16 * _one_of(2, 6, seed), 16 * _one_of(2, 6, ~seed), seed=seed),),
    ),
    DynamicProgram("experts", _experts, lambda seed: (_floats(_one_of(4, 64, seed), 64, seed=seed),)),
    DynamicProgram("early_exit", _early_exit, lambda seed: (_floats(_one_of(1, 8, seed), 128, seed=seed),)),
    DynamicProgram(
        "train_step",
        train_step,
        lambda seed: (
            _floats(_one_of(1, 8, seed), 3, 16, 16, seed=seed),
            torch.randint(0, 10, (_one_of(1, 8, seed),), generator=random_numbers(seed)),
        ),
        grad=True,
    ),
)  # fmt: skip


def tensors_of(result: Any) -> Iterator[torch.Tensor]:
    """The tensors that a call gave back."""
    if isinstance(result, torch.Tensor):
        yield result
    else:
        for item in result:
            yield from tensors_of(item)


def run_beside_the_original(
    program: DynamicProgram, num_calls: int, snapshots_at: Sequence[int] = (), **options: Any
) -> list[memomalloc.Stats]:
    """Call a program and its optimized twin with random inputs, and assert that they give the same bits.

    Returns:
        The counters of the twin before the calls ``snapshots_at``, and at the end.
    """
    original, twin = program.build(), program.build()
    optimized = memomalloc.optimize(twin, inplace=program.inplace, **options)
    snapshots = []
    with torch.enable_grad() if program.grad else torch.inference_mode():
        for seed in range(num_calls):
            if seed in snapshots_at:
                snapshots.append(memomalloc.stats(optimized))
            inputs = program.inputs(seed)
            expected = list(tensors_of(program.call(original, *inputs)))
            actual = list(tensors_of(program.call(optimized, *inputs)))
            assert len(actual) == len(expected)
            for one, other in zip(actual, expected, strict=True):
                assert_equal_bits(one, other)
    stats = memomalloc.stats(optimized)
    assert stats.num_bad_frees == 0
    return [*snapshots, stats]


def served_share_between(before: memomalloc.Stats, after: memomalloc.Stats) -> float:
    """Of the requests of the calls between, replayed ones."""
    served = after.requests_served - before.requests_served
    upstream = sum(after.requests_upstream.values()) - sum(before.requests_upstream.values())
    assert served > 0
    return served / (served + upstream)
