"""Two ways of making the same call, timed in turns, so that whatever else the machine does happens to both."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from memomalloc.bench.process import Usage

Call = Callable[[], Any]


@dataclass
class Side:
    """What one of the two ways cost: one sample for each call."""

    latencies_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    usage: Usage = field(default_factory=Usage)

    @property
    def num_calls(self) -> int:
        """How many calls were timed."""
        return len(self.latencies_ms)

    def per_call(self, total: float) -> float:
        """A counter of :attr:`usage`, per call."""
        return total / max(self.num_calls, 1)


@dataclass
class Pairs:
    """Paired calls: sample ``i`` of ``upstream`` and sample ``i`` of ``planned`` were taken one after the other."""

    upstream: Side = field(default_factory=Side)
    planned: Side = field(default_factory=Side)

    @property
    def num_pairs(self) -> int:
        """How many pairs there are."""
        return self.planned.num_calls


class Workers:
    """Threads that all make the same call at once; with one worker, the calling thread."""

    def __init__(
        self, num_workers: int, prepare: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    ) -> None:
        """Start the threads.

        Args:
            num_workers: how many; 1: no thread is started.
            prepare: gives a context manager in which each thread lives (modes of torch belong to a thread).
        """
        self.num_workers = num_workers
        self._prepare = prepare
        self._call: Call = lambda: None
        self._calls_each = 0
        self._latencies: list[list[float]] = [[] for _ in range(num_workers)]
        self._errors: list[BaseException] = []
        self._gate = threading.Barrier(num_workers + 1)
        self._threads = [
            threading.Thread(target=self._work, args=(index,), daemon=True)
            for index in range(num_workers if num_workers > 1 else 0)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._gate.abort()
        for thread in self._threads:
            thread.join()

    def run(self, call: Call, calls_each: int, side: Side) -> None:
        """Let every worker make ``calls_each`` calls, all at once, and add what they cost to ``side``.

        Raises:
            Exception: whatever a call raised, after all workers have ended.
        """
        before = Usage.now()
        began = time.perf_counter()
        if self._threads:
            self._call, self._calls_each = call, calls_each
            self._gate.wait()
            self._gate.wait()
        else:
            self._latencies[0] = [_timed(call) for _ in range(calls_each)]
        wall_s = time.perf_counter() - began
        used = Usage.now() - before
        if self._errors:
            raise self._errors.pop()
        side.wall_s += wall_s
        side.usage += used
        # Worker by worker, so that sample i of both sides is of one worker.
        side.latencies_ms += [latency for each in self._latencies for latency in each]

    def _work(self, index: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError), self._prepare():
            while True:
                self._gate.wait()
                try:
                    self._latencies[index] = [_timed(self._call) for _ in range(self._calls_each)]
                except Exception as error:  # raised again by run(), on the thread that measures
                    self._errors.append(error)
                self._gate.wait()


def _timed(call: Call) -> float:
    began = time.perf_counter_ns()
    result = call()
    elapsed_ns = time.perf_counter_ns() - began
    del result  # after the clock: a caller would use it first
    return elapsed_ns / 1e6


def take_pairs(
    upstream: Call,
    planned: Call,
    workers: Workers,
    *,
    budget_s: float,
    min_pairs: int,
    max_pairs: int,
    calls_each: int = 1,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Pairs:
    """Time two calls in turns until the time is spent.

    Args:
        upstream: the call as it is.
        planned: the same call, replayed.
        workers: who calls; both sides in turns, never at once.
        budget_s: wall-clock time to spend.
        min_pairs: at least so many pairs, whatever they take.
        max_pairs: at most so many.
        calls_each: calls of one worker before the other side has its turn.
        on_progress: told the share that is done, 0 to 1, between pairs; its own time is not measured.
    """
    pairs = Pairs()
    began = time.perf_counter()
    while True:
        workers.run(upstream, calls_each, pairs.upstream)
        workers.run(planned, calls_each, pairs.planned)
        spent_s = time.perf_counter() - began
        done = max(min(spent_s / budget_s, pairs.num_pairs / min_pairs), pairs.num_pairs / max_pairs)
        on_progress(min(done, 1.0))
        if done >= 1.0:
            return pairs
