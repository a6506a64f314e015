"""Threads, wrappers and frees at random for a while, with poisoned memory: every value that lives stays right."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process
from models import Steps, chain_values

DURATION_S = 20.0
NUM_THREADS = 6
VALUES = chain_values(0, 4000)
SIZES = (10, 100, 300, 1000, 4000)


class Kept:
    """Tensors that live on, and what each must hold; any thread may add, check and drop some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tensors: deque[tuple[torch.Tensor, bytes]] = deque()

    def add(self, tensor: torch.Tensor) -> None:
        expected = tensor.numpy().tobytes()
        with self._lock:
            self._tensors.append((tensor, expected))

    def check_and_drop(self, source: random.Random, at_most: int) -> None:
        for _ in range(source.randrange(at_most)):
            with self._lock:
                if not self._tensors:
                    return
                self._tensors.rotate(source.randrange(8))
                tensor, expected = self._tensors.popleft()
            assert tensor.numpy().tobytes() == expected


class Program:
    """A wrapped program that changes from time to time, keeps tensors, raises and calls others."""

    def __init__(self, kept: Kept, seed: int) -> None:
        self.kept = kept
        self.source = random.Random(seed)
        self.sizes = tuple(self.source.choices(SIZES, k=6))
        self.wrapper: Any = memomalloc.optimize(self.run, warm_up_calls=0, planner="greedy_by_size", max_plans=4)
        self.inner: Program | None = None

    def run(self, sizes: tuple[int, ...], chaos: float) -> torch.Tensor:
        total = torch.sin(VALUES[0])
        for size in sizes:
            part = torch.sin(VALUES[:size])
            total = total + part.sum()
            dice = random.random()
            if dice < chaos:
                self.kept.add(part)
            elif dice < 2 * chaos:
                raise InterruptedError
            elif dice < 3 * chaos and self.inner is not None:
                self.inner.wrapper(self.inner.sizes, 0.0)
            elif dice < 4 * chaos:
                self.kept.check_and_drop(self.source, 8)
        return total


def _expected(sizes: tuple[int, ...]) -> float:
    return Steps(sizes)(VALUES).item()


@pytest.mark.slow
@in_child_process(env={"MEMOMALLOC_POISON": "1"})  # where a deadlock is a failure
def test_values_stay_right_whatever_threads_and_programs_do() -> None:
    kept = Kept()
    programs = [Program(kept, seed) for seed in range(4)]
    for program, inner in itertools.pairwise(programs):
        program.inner = inner
    end_s = time.monotonic() + DURATION_S
    calls = [0] * NUM_THREADS

    def work(i: int) -> None:
        source = random.Random(i)
        while time.monotonic() < end_s:
            calls[i] += 1
            program = source.choice(programs)
            sizes = program.sizes if source.random() < 0.9 else tuple(source.choices(SIZES, k=source.randrange(8)))
            chaos = source.choice((0.0, 0.0, 0.02, 0.1))
            try:
                # Sizes by position make a signature of their own; as an unhashable list's length they do not.
                total = program.wrapper(sizes, chaos)
            except InterruptedError:
                continue
            assert total.item() == _expected(sizes)
            dice = source.random()
            if dice < 0.1:
                kept.add(total)
            elif dice < 0.3:
                kept.check_and_drop(source, 12)
            elif dice < 0.31:
                program.wrapper.forget()
            elif dice < 0.32:
                memomalloc.stats()
            elif dice < 0.33:  # a thread that comes and goes, and holds the last reference
                threading.Thread(target=lambda tensor: tensor.sum(), args=(total,)).start()

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for future in [pool.submit(work, i) for i in range(NUM_THREADS)]:
            future.result()
    kept.check_and_drop(random.Random(0), 2**20)
    stats = memomalloc.stats()
    assert min(calls) > 20
    assert stats.num_bad_frees == 0
    assert stats.num_regions_in_use == 0
    assert sum(program.wrapper.stats().runs_replayed for program in programs) > 100
