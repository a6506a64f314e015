"""Many threads call many wrappers for a long time: right values, everything served, and memory that does not grow.

``MEMOMALLOC_STRESS_S`` sets the seconds: 20 unless said, 600 in ``make stress``.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.bench.process import resident_bytes
from memomalloc.runtime import extension
from models import Chain, Steps, chain_values, conv_net, images
from serving import assert_equal_bits, learn

SECONDS = float(os.environ.get("MEMOMALLOC_STRESS_S", "20"))
NUM_THREADS = (1, 2, 4, 16, 64)
#: What the process may grow by after all thread counts were there twice.
GROWTH_BYTES = 24 << 20
SEEDS = range(4)

_FEW_ARENAS = memomalloc.ArenaSettings(max_arenas=3, wait_s=0.05)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 240)]


@dataclass
class Service:
    """A wrapper under load, and what it must answer."""

    wrapper: torch.nn.Module
    inputs: list[torch.Tensor]
    expected: list[torch.Tensor]
    num_calls: int = 0  # about: threads may overwrite each other's counts
    kept: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, build: Callable[[], torch.nn.Module], inputs: Callable[[int], torch.Tensor], **options: object
    ) -> Service:
        values = [inputs(seed) for seed in SEEDS]
        with torch.inference_mode():
            model = build()
            expected = [model(value) for value in values]
            wrapper = memomalloc.optimize(build(), keep_plans=True, **options)  # type: ignore[call-overload]
            learn(wrapper, values[0])
        return cls(wrapper, values, expected)

    def call(self, thread: int, seed: int) -> None:
        # The last output of each thread lives while the next is made, as a service's response does.
        output = self.wrapper(self.inputs[seed])
        assert_equal_bits(output, self.expected[seed])
        if thread in self.kept:
            del self.kept[thread]
        self.kept[thread] = output
        self.num_calls += 1


def _steps() -> Steps:
    return Steps([900, 30, 500, 1000], keep=True)


def _load(services: list[Service], num_threads: int, seconds: float) -> None:
    """Threads that are new, and call all services in turn until time is over."""
    end = time.monotonic() + seconds
    gate = threading.Barrier(num_threads)

    def work(thread: int) -> None:
        gate.wait()
        call = thread
        with torch.inference_mode():
            while time.monotonic() < end or call < thread + 2 * len(services):
                services[call % len(services)].call(thread, call % len(SEEDS))
                call += 1

    with ThreadPoolExecutor(num_threads) as threads:
        for done in [threads.submit(work, thread) for thread in range(num_threads)]:
            done.result()


# In a process of its own: what other tests have left in the heap is not this one's growth.
@in_child_process(timeout_s=2 * SECONDS + 120)
def test_load() -> None:
    services = [
        Service.of(conv_net, images),
        Service.of(Chain, chain_values),
        Service.of(_steps, chain_values),
        Service.of(conv_net, images, arenas=_FEW_ARENAS),
        Service.of(Chain, chain_values, max_bytes=60_000),  # room for a few arenas only: the others run unplanned
    ]
    unbounded = services[:3]
    num_cycles = max(3, round(SECONDS / 60))
    phase_s = SECONDS / num_cycles / len(NUM_THREADS)
    resident = []
    for _ in range(num_cycles):
        for num_threads in NUM_THREADS:
            _load(services, num_threads, phase_s)
        gc.collect()
        # What upstream retains of calls that ran unplanned comes and goes by tens of MiB, and is not held by anybody.
        extension.install().release_upstream_memory()
        resident.append(resident_bytes())
    for service in unbounded:
        stats = service.wrapper.stats()
        # Threads outnumber arenas, and each keeps an output: some find all its places taken. Nothing else goes
        # upstream.
        assert sum(stats.requests_upstream.values()) == stats.requests_upstream["occupied"] < stats.runs_replayed, stats
        assert stats.requests_missing == 0, stats
        assert stats.runs_unplanned == {"warm_up": 1}, stats
        assert stats.num_regions <= max(NUM_THREADS)
    for service in services:
        stats = service.wrapper.stats()
        assert stats.num_regions_in_use == 0
        assert stats.num_bad_frees == 0
        # Every call is counted once, however it ran; the counter of this test may have lost some.
        runs = stats.runs_replayed + stats.runs_recorded + sum(stats.runs_unplanned.values())
        assert runs >= service.num_calls
    steady = max(resident[: max(1, num_cycles // 3)])
    print(f"\nresident MiB after each cycle: {[size >> 20 for size in resident]}; "
          f"calls: {[service.num_calls for service in services]}")  # fmt: skip
    assert resident[-1] - steady < GROWTH_BYTES, [size >> 20 for size in resident]
