"""sentence-transformers: ``encode`` calls the modules inside; nobody calls the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

sentence_transformers = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("encoder")
    (made / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(made / "vocab.txt")).save_pretrained(made)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    transformers.BertModel(config).save_pretrained(made)
    return made


def encoder(folder: Path) -> Any:
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    words, pooling = modules.Transformer(str(folder)), modules.Pooling(64)
    return sentence_transformers.SentenceTransformer(modules=[words, pooling], device="cpu").eval()


def sentences(number: int, length: int = 12) -> list[str]:
    letters = WORDS[5:]
    return [" ".join(letters[(number + i * j) % 26] for i in range(length)) for j in (1, 3, 5)]


@pytest.mark.parametrize("inplace", [False, True])
def test_sentences_are_encoded(folder: Path, inplace: bool) -> None:
    plain, planned = encoder(folder), memomalloc.optimize(encoder(folder), inplace=inplace)
    assert_as_plain(
        lambda number: plain.encode(sentences(number)), lambda number: planned.encode(sentences(number)), planned
    )


def test_sentences_of_various_lengths_are_encoded(folder: Path) -> None:
    plain, planned = encoder(folder), memomalloc.optimize(encoder(folder), shapes="auto")
    assert_as_plain(
        lambda number: plain.encode(sentences(number, 5 + number % 11)),
        lambda number: planned.encode(sentences(number, 5 + number % 11)),
        planned,
        to_learn=60,
    )


def test_it_is_saved_as_the_model(folder: Path, tmp_path: Path) -> None:
    planned = memomalloc.optimize(encoder(folder))
    for number in range(6):
        planned.encode(sentences(number))
    planned.save(str(tmp_path))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert_same(loaded.encode(sentences(0)), encoder(folder).encode(sentences(0)))
