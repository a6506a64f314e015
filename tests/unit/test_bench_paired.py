"""Calls in turns: who calls, how often, and what is counted."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from memomalloc.bench import process
from memomalloc.bench.paired import Side, Workers, take_pairs


def test_both_sides_call_in_turns() -> None:
    calls: list[str] = []
    with Workers(1) as workers:
        pairs = take_pairs(
            lambda: calls.append("a"), lambda: calls.append("b"), workers, budget_s=0.0001, min_pairs=4, max_pairs=4
        )
    assert calls == ["a", "b"] * 4
    assert pairs.num_pairs == pairs.upstream.num_calls == 4


def test_time_is_spent_but_pairs_are_limited() -> None:
    shares: list[float] = []
    with Workers(1) as workers:
        pairs = take_pairs(
            lambda: None, lambda: None, workers, budget_s=3600, min_pairs=1, max_pairs=7, on_progress=shares.append
        )
    assert pairs.num_pairs == 7
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_all_workers_call_at_once_and_one_side_at_a_time() -> None:
    here = threading.Barrier(3, timeout=20)
    sides: set[str] = set()

    def call(side: str) -> None:
        here.wait()  # passes only if all three are in the same call
        sides.add(side)
        here.wait()
        assert sides == {side}
        here.wait()
        sides.discard(side)
        here.wait()

    with Workers(3) as workers:
        pairs = take_pairs(
            lambda: call("a"), lambda: call("b"), workers, budget_s=0.001, min_pairs=6, max_pairs=6, calls_each=2
        )
    assert pairs.upstream.num_calls == pairs.planned.num_calls == 6


def test_workers_live_in_their_context() -> None:
    local = threading.local()
    seen: list[str] = []

    @contextmanager
    def prepared():  # type: ignore[no-untyped-def]
        local.mode = "prepared"
        yield

    with Workers(2, prepared) as workers:
        workers.run(lambda: seen.append(local.mode), 1, Side())
    assert seen == ["prepared", "prepared"]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_error_of_a_call_is_raised_and_the_workers_end(num_workers: int) -> None:
    before = threading.active_count()

    def fail() -> None:
        raise RuntimeError("the model failed")

    with Workers(num_workers) as workers, pytest.raises(RuntimeError, match="the model failed"):
        workers.run(fail, 2, Side())
    assert threading.active_count() == before


def test_usage_counts_page_faults() -> None:
    side = Side()

    def touch() -> None:
        assert len(bytearray(64 << 20)) == 64 << 20

    with Workers(1) as workers:
        workers.run(touch, 2, side)
    assert side.num_calls == 2
    assert side.usage.minor_faults > 0
    assert side.usage.cpu_s > 0


def test_peak_of_memory_can_be_reset() -> None:
    def grow(num_bytes: int) -> int:
        process.reset_peak_resident()
        before = process.resident_bytes()
        block = bytearray(b"x") * num_bytes
        del block
        return process.peak_resident_bytes() - before

    assert grow(200 << 20) > 150 << 20
    assert grow(20 << 20) < 100 << 20
