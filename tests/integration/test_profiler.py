"""``torch.profiler(profile_memory=True)`` sees planned blocks as it sees upstream's."""

from __future__ import annotations

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
    # Upstream reports what was asked for, a plan what its slot holds: a multiple of 64.
    assert actual.keys() == expected.keys()
    for operator, num_bytes in expected.items():
        assert num_bytes <= actual[operator] <= num_bytes + 6 * 63


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
