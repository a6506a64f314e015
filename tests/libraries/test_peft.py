"""PEFT: a model with adapters gives the methods of the model inside for its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def base() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64,
                                     bos_token_id=1, eos_token_id=None, pad_token_id=0)  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def adapted(task: str | None) -> Any:
    model = base()
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type=task, target_modules=["c_attn"], init_lora_weights=False)
    return peft.get_peft_model(model, config).eval()


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(2, 100, (1, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("task", ["CAUSAL_LM", None], ids=str)
def test_text_is_generated(task: str | None, inplace: bool) -> None:
    plain, planned = adapted(task), memomalloc.optimize(adapted(task), inplace=inplace, shapes="auto")

    def generate(model: Any, seed: int) -> Any:
        return model.generate(input_ids=tokens(seed), max_new_tokens=5, do_sample=False)

    assert_as_plain(lambda seed: generate(plain, seed), lambda seed: generate(planned, seed), planned, to_learn=25)


def test_calls_are_planned_and_adapters_saved(tmp_path: Path) -> None:
    plain, planned = adapted("CAUSAL_LM"), memomalloc.optimize(adapted("CAUSAL_LM"))
    with torch.inference_mode():
        assert_as_plain(
            lambda seed: plain(tokens(seed), use_cache=False).logits,
            lambda seed: planned(tokens(seed), use_cache=False).logits,
            planned,
        )
        planned.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(base(), tmp_path).eval()
        assert_same(loaded(tokens(0)).logits, plain(tokens(0)).logits)
        merged = planned.merge_and_unload()
        assert type(merged) is transformers.GPT2LMHeadModel
        assert_same(merged(tokens(0)).logits, plain.merge_and_unload()(tokens(0)).logits)
