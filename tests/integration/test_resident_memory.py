"""Replaying needs no more memory than the program needed before."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

import memomalloc
from child_process import in_child_process
from models import conv_net, images


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("VmRSS is missing")


@in_child_process()
def test_the_process_is_no_larger_while_replaying_than_before_arming() -> None:
    module = conv_net()
    with torch.inference_mode():
        values = images(0, batch=16, size=160)
        largest_before = 0

        def measure(*_: object) -> None:
            nonlocal largest
            largest = max(largest, _resident_bytes())

        for layer in module.children():
            layer.register_forward_hook(measure)
        for _ in range(5):
            largest = 0
            module(values)
            largest_before = max(largest_before, largest)

        wrapper = memomalloc.optimize(module)
        for _ in range(6):
            wrapper(values)
        gc.collect()
        largest = 0
        for _ in range(5):
            wrapper(values)
        stats = wrapper.stats()
    assert stats.runs_replayed >= 5
    assert stats.arena_bytes == stats.lower_bound_bytes > 50 * 2**20
    # The package, its extensions and what they learned come to a few MiB.
    assert largest <= largest_before + 8 * 2**20


@in_child_process()
def test_forgotten_plans_give_their_memory_back() -> None:
    with torch.inference_mode():
        wrapper = memomalloc.optimize(conv_net())
        values = images(0, batch=16, size=160)
        for _ in range(8):
            wrapper(values)
        arena_bytes = wrapper.stats().arena_bytes
        before = _resident_bytes()
        wrapper.forget()
        assert _resident_bytes() <= before - arena_bytes // 2


@in_child_process()
def test_many_plans_that_come_and_go_do_not_add_up() -> None:
    with torch.inference_mode():
        wrapper = memomalloc.optimize(conv_net(), max_plans=2, warm_up_calls=0)
        sizes = []
        for size in range(60):
            values = images(0, batch=1, size=64 + size)
            for _ in range(4):
                wrapper(values)
            sizes.append(_resident_bytes())
        assert len(wrapper.plans) == 2
        assert wrapper.stats().runs_replayed >= 60
    assert sizes[-1] <= sizes[20] + 32 * 2**20
