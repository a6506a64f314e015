"""Twenty models, four threads that call them at random: right values, and no more memory than four calls need.

``MEMOMALLOC_STRESS_S`` sets the seconds: 30 unless said, 1200 in ``make stress``.
"""

from __future__ import annotations

import gc
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.bench.process import resident_bytes
from memomalloc.runtime import extension
from serving import assert_equal_bits

SECONDS = float(os.environ.get("MEMOMALLOC_STRESS_S", "30"))
NUM_MODELS = 20
NUM_THREADS = 4
#: What no plan is to blame for: pages of torch's and of the interpreter's own heaps.
NOISE_BYTES = 4 << 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 240)]


def _model(number: int) -> torch.nn.Module:
    width = 8 + 2 * number
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(width, 2 * width, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * width, 1000),
    ).eval()


@in_child_process(timeout_s=2 * SECONDS + 180, env={"MEMOMALLOC_POISON": "1"})
def test_twenty_models_on_four_threads_need_four_arenas() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = [_model(number) for number in range(NUM_MODELS)]
    images = [torch.randn(2, 3, 128 + 16 * (number % 5), 160) for number in range(NUM_MODELS)]
    with torch.inference_mode():
        expected = [model(image) for model, image in zip(models, images, strict=True)]
    optimized = [memomalloc.optimize(model, keep_plans=True) for model in models]
    part_s = min(60.0, SECONDS / 3)

    def call_plainly(thread: int) -> None:
        with torch.inference_mode():
            for model, image in zip(models, images, strict=True):
                model(image)

    def call(seed: int) -> int:
        order, num_calls = random.Random(seed), 0
        kept: list[torch.Tensor] = []
        end_s = time.monotonic() + part_s
        with torch.inference_mode():
            while time.monotonic() < end_s:
                number = order.randrange(NUM_MODELS)
                kept = [*kept[-2:], optimized[number](images[number])]
                assert_equal_bits(kept[-1], expected[number])
                num_calls += 1
        return num_calls

    resident, seed = [], 0
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(threads.map(call_plainly, range(NUM_THREADS)))  # what threads and oneDNN need, whoever allocates
        extension.load().release_upstream_memory()
        plain_bytes, begin_s = resident_bytes(), time.monotonic()
        while not resident or time.monotonic() < begin_s + SECONDS:
            seeds = range(seed, seed := seed + NUM_THREADS)
            num_calls = sum(threads.map(call, seeds))
            gc.collect()
            resident.append(resident_bytes() - plain_bytes)

    memory = memomalloc.memory_stats()
    largest_bytes = max(plan.arena_bytes for model in optimized for plan in memomalloc.plans(model))
    output_bytes = sum(region.output_mapped_bytes for region in memory.regions)
    print(f"\nMiB over the plain process: {[size / 2**20 for size in resident]}; largest arena {largest_bytes / 2**20},"
          f" outputs {output_bytes / 2**20}; {num_calls} calls in the last part")  # fmt: skip
    stats = [memomalloc.stats(model) for model in optimized]
    assert sum(each.num_plans for each in stats) == NUM_MODELS
    assert all(each.served_share == 1.0 and each.num_bad_frees == 0 for each in stats)
    assert len(memory.regions) <= NUM_THREADS
    assert memory.mapped_bytes <= NUM_THREADS * largest_bytes + output_bytes
    assert resident[-1] <= 1.05 * resident[1]  # learning is over in the first part
    assert max(resident) <= 1.05 * (NUM_THREADS * largest_bytes + output_bytes) + NOISE_BYTES
