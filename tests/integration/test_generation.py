"""Text is generated token by token: caches grow and escape from each call, and most bytes come from plans."""

from __future__ import annotations

import pytest
import torch

import memomalloc
from dynamic_models import NEW_TOKENS, PROGRAMS, DynamicProgram, run_beside_the_original
from memomalloc.runtime.calls.shape_policy import POLICIES
from serving import assert_equal_bits

pytestmark = pytest.mark.usefixtures("poison")

GENERATORS = [program for program in PROGRAMS if program.name in ("gpt2", "llama", "t5")]
NUM_GENERATIONS = 200 // NEW_TOKENS + 5  # at least 200 calls of the model


@pytest.mark.parametrize("shapes", POLICIES)
@pytest.mark.parametrize("program", GENERATORS, ids=str)
def test_tokens_are_equal(program: DynamicProgram, shapes: str) -> None:
    stats = run_beside_the_original(program, NUM_GENERATIONS, shapes=shapes)[-1]
    calls = stats.runs_replayed + stats.runs_recorded + sum(stats.runs_unplanned.values())
    assert calls >= NUM_GENERATIONS * NEW_TOKENS >= 200  # some are recorded while they are replayed
    assert stats.runs_replayed > 0 or shapes == "exact"


@pytest.mark.parametrize("shapes", ["bucketed", "merged", "auto"])
@pytest.mark.parametrize("program", GENERATORS, ids=str)
def test_four_fifths_of_the_bytes_are_served(program: DynamicProgram, shapes: str) -> None:
    model = memomalloc.optimize(program.build(), inplace=True, shapes=shapes)
    with torch.inference_mode():
        for seed in range(60):
            program.call(model, *program.inputs(seed))
        requested = served = 0
        planned, kind = model._planned, type(model)
        original = kind._memomalloc_call

        def counted(*args: object, **kwargs: object) -> object:
            """Count what a call asks for in all, and what its plan serves of it."""
            nonlocal requested, served
            before = planned.stats()
            with memomalloc.record() as recording:
                output = original(*args, **kwargs)
            after = planned.stats()
            asked = int(recording.trace.sizes.sum())
            requested += asked
            if after.runs_replayed > before.runs_replayed:
                served += asked - (after.bytes_upstream - before.bytes_upstream)
            return output

        kind._memomalloc_call = staticmethod(counted)
        for seed in range(60, 80):
            program.call(model, *program.inputs(seed))
    assert requested > 0
    assert served >= 0.8 * requested


def test_a_cache_that_the_program_keeps_is_never_overwritten() -> None:
    program = GENERATORS[0]
    original, model = program.build(), memomalloc.optimize(program.build(), inplace=True, shapes="merged")
    kept = []
    with torch.inference_mode():
        for seed in range(30):
            inputs = program.inputs(seed)
            kept.append((model(*inputs, use_cache=True), original(*inputs, use_cache=True)))
    for actual, expected in kept:
        assert_equal_bits(actual.logits, expected.logits)
        for ours, theirs in zip(actual.past_key_values.layers, expected.past_key_values.layers, strict=True):
            assert_equal_bits(ours.keys, theirs.keys)
            assert_equal_bits(ours.values, theirs.values)
    assert memomalloc.stats(model).runs_replayed > 0
