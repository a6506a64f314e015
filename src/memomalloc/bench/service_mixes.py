"""What services are asked for: models, requests of many shapes, and how often each comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Request:
    """One kind of request.

    Attributes:
        model: which of the service's models answers it.
        call: answers it with that model, planned or not.
        weight: how often it comes, beside the others.
    """

    model: int
    call: Callable[[Any], Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Service:
    """What a process serves.

    Attributes:
        models: without plans.
        requests: all kinds that come.
    """

    models: list[nn.Module]
    requests: list[Request]


@dataclass(frozen=True)
class Mix:
    """A service to be measured.

    Attributes:
        name: as rows and options call it.
        what: it serves, for readers.
        build: makes models and requests; told whether all is to be small.
        needs_transformers: for its definitions.
    """

    name: str
    what: str
    build: Callable[[bool], Service]
    needs_transformers: bool = True


def _on(inputs: Any) -> Callable[[Any], Any]:
    """A call with inputs: a tensor, or a mapping of keyword arguments."""
    if isinstance(inputs, torch.Tensor):
        return lambda model: model(inputs)
    return lambda model: model(**inputs)


def _vision(smoke: bool) -> Service:
    # Imported where it is used: transformers takes seconds, and not every mix needs it.
    from memomalloc.bench.transformers_models import transformers as made

    models: list[nn.Module] = [
        made.MobileNetV2Model(made.MobileNetV2Config()),
        made.MobileNetV2Model(made.MobileNetV2Config(depth_multiplier=0.5)),
        made.ResNetModel(made.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2])),
        made.ConvNextModel(made.ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2])),
        made.RegNetModel(
            made.RegNetConfig(embedding_size=32, hidden_sizes=[48, 104, 208, 440], depths=[2, 5, 10, 2], groups_width=8)
        ),
        # The sizes of B0; the defaults are those of B7.
        made.EfficientNetModel(made.EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)),
    ]
    # Small models are asked more often.
    weights = (3.0, 4.0, 1.0, 2.0, 2.0, 1.0)
    sides = (32, 64) if smoke else range(96, 225, 32)
    return Service(
        models,
        [
            Request(number, _on(torch.randn(1, 3, height, width)), weights[number])
            for number in range(len(models))
            for height in sides
            for width in sides
        ],
    )


def _text(smoke: bool) -> Service:
    from memomalloc.bench.transformers_models import transformers as made

    config = made.BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
    models: list[nn.Module] = [made.BertModel(config), made.BertForSequenceClassification(config)]

    def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, config.vocab_size, (batch, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    # Short texts are the most frequent; each reranking compares a question with eight answers.
    lengths = (8, 16) if smoke else (*range(8, 129, 8), *range(160, 513, 32))
    encodings = [Request(0, _on(tokens(1, length)), 1 / length) for length in lengths]
    share = sum(request.weight for request in encodings) / 10
    compared = (8,) if smoke else (32, 48, 64, 96)
    return Service(
        models, encodings + [Request(1, _on(tokens(8, length)), share / len(compared)) for length in compared]
    )


class _Recommender(nn.Module):
    """Sparse features in tables, dense ones in a network, and the products of all pairs (DLRM: Naumov et al. 2019)."""

    def __init__(self, num_tables: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(20_000, width, mode="sum") for _ in range(num_tables))
        self.dense = nn.Sequential(nn.Linear(13, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())
        num_pairs = (num_tables + 1) * num_tables // 2
        self.top = nn.Sequential(nn.Linear(width + num_pairs, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        self.pairs: torch.Tensor
        self.register_buffer("pairs", torch.tril_indices(num_tables + 1, num_tables + 1, -1))

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Probabilities of n candidates: n x 13 features, tables x n x 4 rows of tables."""
        low = self.dense(dense)
        vectors = torch.stack([low, *(table(rows) for table, rows in zip(self.tables, sparse, strict=True))], 1)
        products = vectors @ vectors.transpose(1, 2)
        return self.top(torch.cat([low, products[:, self.pairs[0], self.pairs[1]]], 1))  # type: ignore[no-any-return]


def _recommend(smoke: bool) -> Service:
    shapes = ((2, 16, 64), (6, 32, 128), (12, 64, 256))
    models: list[nn.Module] = [_Recommender(*shape) for shape in shapes]
    batches = (1, 8) if smoke else (1, 16, 32, 64)

    def candidates(batch: int, num_tables: int) -> dict[str, torch.Tensor]:
        return {"dense": torch.randn(batch, 13), "sparse": torch.randint(0, 20_000, (num_tables, batch, 4))}

    return Service(
        models,
        [
            Request(number, _on(candidates(batch, num_tables)), 1 / (number + 1))
            for number, (num_tables, _, _) in enumerate(shapes)
            for batch in batches
        ],
    )


#: Tokens that a request of the mix ``generate`` gets.
NEW_TOKENS = 4


def _generate(smoke: bool) -> Service:
    from memomalloc.bench.transformers_models import transformers as made

    config = made.LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, vocab_size=8192
    )
    model: nn.Module = made.LlamaForCausalLM(config)

    def continued(tokens: torch.Tensor) -> Callable[[Any], Any]:
        def answer(model: Any) -> Any:
            # The greedy loop of `generate`, without what that does besides calling the model.
            step = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
            chosen = [step.logits[:, -1:].argmax(-1)]
            while len(chosen) < NEW_TOKENS:
                step = model(
                    input_ids=chosen[-1], past_key_values=step.past_key_values, use_cache=True, logits_to_keep=1
                )
                chosen.append(step.logits[:, -1:].argmax(-1))
            return torch.cat(chosen, 1)

        return answer

    lengths = (8, 16) if smoke else range(64, 513, 64)
    return Service(
        [model],
        [
            Request(0, continued(torch.randint(0, config.vocab_size, (1, length))), lengths[0] / length)
            for length in lengths
        ],
    )


def _speech(smoke: bool) -> Service:
    from memomalloc.bench.transformers_models import transformers as made

    recognizer: nn.Module = made.Wav2Vec2ForCTC(
        made.Wav2Vec2Config(
            hidden_size=192, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768, conv_dim=(64,) * 7
        )
    )
    # Is there a voice at all? Convolutions over 80 bands, 100 times a second.
    detector = nn.Sequential(
        *(nn.Conv1d(80, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.ReLU()),
        *(nn.Conv1d(64, 1, 1), nn.Sigmoid()),
    )
    halves = (1, 2) if smoke else range(2, 13)
    return Service(
        [recognizer, detector],
        [
            *(Request(0, _on(torch.randn(1, 8000 * number)), 1 / number) for number in halves),
            *(Request(1, _on(torch.randn(1, 80, 50 * number)), 2 / number) for number in halves),
        ],
    )


#: All there are, by name.
MIXES = {
    mix.name: mix
    for mix in (
        Mix(
            "vision",
            "MobileNetV2 (1.0 and 0.5), a ResNet-18, a small ConvNeXt, a RegNet and an EfficientNet-B0; one image of "
            "96 to 224 pixels by 32, both sides: 25 sizes",
            _vision,
        ),
        Mix(
            "text",
            "a BERT of four layers for texts of 8 to 512 tokens, the shortest the most frequent; and one that compares "
            "a question with eight answers of 32 to 96 tokens",
            _text,
        ),
        Mix(
            "recommend",
            "three recommenders after DLRM with 2, 6 and 12 tables, for 1 to 64 candidates",
            _recommend,
            needs_transformers=False,
        ),
        Mix(
            "generate",
            f"a Llama of four layers: 64 to 512 tokens of context by 64, and {NEW_TOKENS} new ones, greedily, with a "
            "cache",
            _generate,
        ),
        Mix(
            "speech",
            "a small wav2vec 2.0 for one to six seconds of sound by a half, and a convolutional voice detector",
            _speech,
        ),
    )
}


def weights(requests: Sequence[Request]) -> list[float]:
    """The probability of each kind of request."""
    total = sum(request.weight for request in requests)
    return [request.weight / total for request in requests]
