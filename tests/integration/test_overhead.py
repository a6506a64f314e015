"""What a call costs besides the model. Generous bounds, so that a busy machine does not fail them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import memomalloc
from models import chain_values
from serving import learn


def _fastest_call_ns(call: Callable[[], object], repeats: int = 15, calls: int = 300) -> float:
    fastest = float("inf")
    for _ in range(repeats):
        begin_ns = time.perf_counter_ns()
        for _ in range(calls):
            call()
        fastest = min(fastest, (time.perf_counter_ns() - begin_ns) / calls)
    return fastest


class FirstOfThree(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return a


def test_a_wrapped_call_with_three_tensors_costs_microseconds() -> None:
    module = FirstOfThree().eval()
    inputs = [chain_values(seed) for seed in range(3)]
    with torch.inference_mode():
        wrapper = memomalloc.optimize(module)
        learn(wrapper, *inputs)
        wrapped_ns = _fastest_call_ns(lambda: wrapper(*inputs))
        bare_ns = _fastest_call_ns(lambda: module(*inputs))
    assert wrapped_ns - bare_ns < 25_000  # the aim is 10 microseconds; benchmarks measure it


def test_a_disabled_wrapper_costs_next_to_nothing() -> None:
    module = FirstOfThree().eval()
    inputs = [chain_values(seed) for seed in range(3)]
    wrapper = memomalloc.optimize(module)
    memomalloc.disable()
    try:
        wrapped_ns = _fastest_call_ns(lambda: wrapper(*inputs))
    finally:
        memomalloc.enable()
    assert wrapped_ns - _fastest_call_ns(lambda: module(*inputs)) < 10_000
