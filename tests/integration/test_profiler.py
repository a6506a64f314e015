"""``torch.profiler(profile_memory=True)`` sees planned blocks as it sees upstream's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import memomalloc
from models import Chain, chain_result, chain_values
from serving import fully_served, learn


def _memory_events(run: object) -> list[int]:
    """Bytes of each allocation (positive) and free (negative) that the profiler saw."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    return [
        event.cpu_memory_usage if hasattr(event, "cpu_memory_usage") else event.self_cpu_memory_usage
        for event in profiler.events()
        if event.name == "[memory]" or event.self_cpu_memory_usage
    ]


def _sizes_and_totals(run: Callable[[], None]) -> tuple[list[int], list[int]]:
    """Of each allocation and free in order: its bytes, and the bytes that are said to be allocated then."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in memory], [event["args"]["Total Allocated"] for event in memory]


def _total_by_operator(run: object) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    return {
        entry.key: entry.self_cpu_memory_usage for entry in profiler.key_averages() if entry.key.startswith("aten::")
    }


def test_planned_allocations_are_charged_to_their_operators() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    values = chain_values(1)
    expected = _total_by_operator(lambda: chain_result(values))
    with fully_served(wrapper, runs=1):
        actual = _total_by_operator(lambda: wrapper(values))
    assert expected["aten::sin"] == 6 * 4000
    assert actual == expected


def test_what_was_asked_for_is_reported_not_what_the_slot_holds() -> None:
    def double(values: torch.Tensor) -> torch.Tensor:
        return values + values + values

    wrapper = memomalloc.optimize(double, shapes="merged")
    for size in (100, 4000, 100, 4000):
        learn(wrapper, torch.ones(size))
    values = torch.ones(250)

    def run() -> None:
        output = wrapper(values)
        del output

    assert _sizes_and_totals(run)[0] == [1000, 1000, -1000, -1000]


def test_allocations_and_frees_balance() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    values = chain_values(1)

    def run() -> None:
        for _ in range(3):
            output = wrapper(values)
            del output

    with fully_served(wrapper, runs=3):
        events = _memory_events(run)
    assert sum(size > 0 for size in events) == sum(size < 0 for size in events) == 3 * 12
    assert sum(events) == 0


def test_large_blocks_of_a_recorded_run_balance() -> None:
    memomalloc.optimize(Chain())  # installs

    def run() -> None:
        with memomalloc.record():
            for _ in range(3):
                block = torch.empty(2**20, dtype=torch.uint8)
                del block

    sizes = _sizes_and_totals(run)[0]
    assert [size for size in sizes if abs(size) >= 2**20] == [2**20, -(2**20)] * 3


def test_the_free_of_a_block_that_was_taken_before_is_not_reported() -> None:
    size_bytes = 4 * 2**20

    def double(values: torch.Tensor) -> torch.Tensor:
        return values + values

    values = torch.ones(2**20)
    wrapper = memomalloc.optimize(double, example_inputs=values)
    older = [wrapper(values)]

    def run() -> None:
        output = wrapper(values)
        older.clear()
        del output
        output = wrapper(values)
        del output

    with fully_served(wrapper, runs=2):
        sizes, totals = _sizes_and_totals(run)
    assert sizes == [size_bytes, -size_bytes, size_bytes, -size_bytes]
    # A negative total would be a huge one, since it has no sign.
    assert all(0 <= total < 2**40 for total in totals), totals
    assert totals == [size_bytes, 0, size_bytes, 0]


def test_a_profile_that_begins_inside_a_run_does_no_harm() -> None:
    profilers = []

    def visit(step: int, values: torch.Tensor) -> None:
        if profiling and step == 2:
            profilers.append(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
            profilers[-1].__enter__()
        elif profiling and step == 4:
            profilers[-1].__exit__(None, None, None)

    profiling = False
    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    profiling = True
    for seed in range(3):
        assert torch.equal(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
