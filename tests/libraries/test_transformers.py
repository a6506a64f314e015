"""transformers: pipelines, trainers, generation, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

transformers = pytest.importorskip("transformers")

TEXT_CONFIG = {
    "vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


def writer() -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**TEXT_CONFIG)).eval()


def classifier() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    return transformers.BertForSequenceClassification(config).eval()


def translator() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(2, 100, (1, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("build", [writer, translator])
def test_text_is_generated(build: Any, inplace: bool) -> None:
    plain, planned = build(), memomalloc.optimize(build(), inplace=inplace, shapes="auto")

    def generate(model: Any, seed: int) -> Any:
        return model.generate(tokens(seed), max_new_tokens=5, min_new_tokens=5, do_sample=False)

    assert_as_plain(lambda seed: generate(plain, seed), lambda seed: generate(planned, seed), planned, to_learn=45)


def _prediction(model: Any, folder: Path) -> Any:
    data = [{"input_ids": tokens(seed)[0], "labels": seed % 2} for seed in range(16)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = transformers.Trainer(model=model, args=arguments)
    answer = trainer.predict(data)
    trainer.save_model(str(folder / "saved"))
    losses = {name: value for name, value in answer.metrics.items() if name.endswith("loss")}
    return trainer.label_names, answer.predictions, answer.label_ids, losses


@pytest.mark.parametrize("inplace", [False, True])
def test_a_trainer_predicts_and_saves(inplace: bool, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    planned = memomalloc.optimize(classifier(), inplace=inplace)
    expected, actual = _prediction(classifier(), tmp_path / "plain"), _prediction(planned, tmp_path / "planned")
    assert actual[0] == expected[0] == ["labels"]
    assert (actual[1] == expected[1]).all()
    assert (actual[2] == expected[2]).all()
    assert actual[3] == expected[3] != {}
    assert memomalloc.stats(planned).runs_replayed > 0
    files = [sorted(path.name for path in (tmp_path / name / "saved").iterdir()) for name in ("plain", "planned")]
    assert files[0] == files[1]
    loaded = type(classifier()).from_pretrained(tmp_path / "planned" / "saved").eval()
    assert_same(loaded(tokens(0)).logits, classifier()(tokens(0)).logits)


def test_a_pipeline_takes_it_for_its_model(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijk"]))
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    planned = memomalloc.optimize(classifier())
    pipelines = [
        transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        for model in (classifier(), planned)
    ]
    answers = [[pipe(f"a b {letter} d") for letter in "abcdefghijk"] for pipe in pipelines]
    assert answers[0] == answers[1]
    assert memomalloc.stats(planned).runs_replayed > 0
    assert "not supported" not in caplog.text
