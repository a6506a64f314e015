from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from memomalloc import DeviceBuffer, DeviceMemory, DevicePlan, DeviceProblem, Place, Problem, plan, plan_device
from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.data import check_device
from memomalloc.errors import CapacityError, InvalidProblemError


def buffers(*rows: tuple[str, int, int, int]) -> list[DeviceBuffer]:
    return [DeviceBuffer(name, size, ((start, end),)) for name, size, start, end in rows]


def test_what_does_not_fit_is_spilled_at_the_least_cost() -> None:
    rows = buffers(("a", 60, 0, 3), ("b", 50, 1, 4), ("c", 50, 2, 5))
    problem = DeviceProblem.of([DeviceMemory("sram", 100), DeviceMemory("dram", cost_per_byte=1)], rows)
    planned = plan_device(problem)
    assert planned.place("a").memory == "dram"
    assert (planned.cost, planned.proven_cheapest) == (60, True)
    assert planned.arena_bytes == {"sram": 100, "dram": 60}


@pytest.mark.parametrize("num_buffers", [3, 40, 600])
def test_there_is_a_plan_without_any_time(num_buffers: int) -> None:
    rows = buffers(*((str(i), 10 + i % 7, i, i + 5) for i in range(num_buffers)))
    problem = DeviceProblem.of([DeviceMemory("sram", 40), DeviceMemory("dram", 60, cost_per_byte=1)], rows)
    check_device(problem, *columns(plan_device(problem, time_limit_s=0)))


def test_a_stated_cost_decides() -> None:
    rows = [
        DeviceBuffer("weights", 60, ((0, 5),), costs={"sram": 0, "dram": 1000}),
        DeviceBuffer("cold", 60, ((0, 5),), costs={"sram": 0, "dram": 3}),
        DeviceBuffer("code", 10, ((0, 5),), costs={"dram": 0}),
    ]
    planned = plan_device(DeviceProblem.of([DeviceMemory("sram", 100), DeviceMemory("dram", 200)], rows))
    assert planned.cost == 3
    assert [planned.place(name).memory for name in ("weights", "cold", "code")] == ["sram", "dram", "dram"]
    assert planned.proven_optimal


def test_no_plan_is_told_from_none_found() -> None:
    rows = buffers(("a", 60, 0, 3), ("b", 50, 1, 4))
    with pytest.raises(
        CapacityError, match=r"no plan exists within the capacities of 'x' \(80\), 'y' \(40\)"
    ) as caught:
        plan_device(DeviceProblem.of([DeviceMemory("x", 80), DeviceMemory("y", 40)], rows))
    assert caught.value.proven
    pinned = [DeviceBuffer(name, 8, ((0, 1),), pin=Place("m", 4 * i)) for i, name in enumerate("ab")]
    with pytest.raises(CapacityError, match="pins lie on each other"):
        plan_device(DeviceProblem.of([DeviceMemory("m")], pinned))


def test_pairs_that_must_not_overlap() -> None:
    rows = buffers(("a", 60, 0, 1), ("b", 50, 1, 2), ("c", 10, 2, 3))
    assert plan_device(DeviceProblem.of([DeviceMemory("m")], rows)).arena_bytes == {"m": 60}
    planned = plan_device(DeviceProblem.of([DeviceMemory("m")], rows, disjoint=[("a", "b")]))
    assert planned.arena_bytes == {"m": 110}
    assert planned.proven_optimal


def test_ping_and_pong_lie_in_different_banks() -> None:
    rows = buffers(("ping", 10, 0, 9), ("pong", 10, 0, 9), ("other", 20, 0, 9))
    problem = DeviceProblem.of([DeviceMemory("l1", bank_bytes=32)], rows, different_banks=[("ping", "pong")])
    planned = plan_device(problem)
    ping, pong = (planned.place(name).offset for name in ("ping", "pong"))
    assert (ping + 9) // 32 != pong // 32
    assert (pong + 9) // 32 != ping // 32
    assert planned.arena_bytes == {"l1": 42}


def test_aliases_lie_within_each_other() -> None:
    rows = buffers(("left", 40, 0, 3), ("right", 60, 1, 3), ("cat", 100, 2, 5), ("other", 60, 0, 1))
    problem = DeviceProblem.of([DeviceMemory("m")], rows, aliases=[{"cat": 0, "left": 0, "right": 40}])
    planned = plan_device(problem)
    base = planned.place("cat").offset
    assert (planned.place("left").offset, planned.place("right").offset) == (base, base + 40)
    # What is not written yet is another's.
    assert planned.arena_bytes == {"m": 100}
    assert planned.proven_optimal


def test_nothing_lies_across_two_chunks() -> None:
    rows = buffers(("a", 60, 0, 9), ("b", 60, 0, 9), ("c", 30, 0, 9), ("d", 30, 0, 9))
    planned = plan_device(DeviceProblem.of([DeviceMemory("gpu", chunk_bytes=100)], rows))
    assert sorted(planned.chunk_bytes("gpu")) == [90, 90]
    assert planned.arena_bytes == {"gpu": 190}
    assert planned.proven_optimal
    with pytest.raises(CapacityError):
        plan_device(DeviceProblem.of([DeviceMemory("gpu", chunk_bytes=50)], rows))


def test_chunks_that_are_smaller_than_an_alignment() -> None:
    rows = [DeviceBuffer(name, 60, ((0, 9),), alignment) for name, alignment in (("a", 4096), ("b", 1), ("c", 64))]
    planned = plan_device(DeviceProblem.of([DeviceMemory("gpu", chunk_bytes=100)], rows))
    assert planned.arena_bytes == {"gpu": 260}
    assert planned.proven_optimal
    far = {"a": Place("gpu", 2**62, 2**40), "b": Place("gpu", 3, 1), "x": Place("gpu", 0)}
    assert plan_device(planned.problem, warm_start=far).arena_bytes == {"gpu": 260}


def test_gaps_are_used_by_others() -> None:
    rows = [DeviceBuffer("a", 64, ((0, 2), (4, 6))), DeviceBuffer("b", 64, ((2, 4),)), DeviceBuffer("c", 32, ((0, 6),))]
    planned = plan_device(DeviceProblem.of([DeviceMemory("m")], rows))
    assert planned.arena_bytes == {"m": 96}
    partly = [DeviceBuffer("a", 64, ((0, 2), (2, 4, 0, 32), (4, 6))), DeviceBuffer("b", 32, ((2, 4),))]
    assert plan_device(DeviceProblem.of([DeviceMemory("m")], partly)).arena_bytes == {"m": 64}


@pytest.mark.parametrize("seed", range(4))
def test_one_memory_is_planned_as_by_plan(seed: int) -> None:
    problem = cut_rectangle(60, seed=seed)
    planned = plan_device(DeviceProblem.of_problem(problem), time_limit_s=5)
    assert planned.arena_bytes["memory"] == problem.lower_bound_bytes
    assert planned.proven_optimal


def test_an_earlier_plan_is_no_worse_for_a_warm_start() -> None:
    random = np.random.default_rng(0)
    rows = [
        DeviceBuffer(f"b{i}", int(random.integers(1, 64)) * 64, ((start, start + int(random.integers(1, 30))),), 64)
        for i, start in enumerate(random.integers(0, 200, 150).tolist())
    ]
    memories = [DeviceMemory("sram", 16384), DeviceMemory("dram", cost_per_byte=1)]
    earlier = plan_device(DeviceProblem.of(memories, rows), time_limit_s=1)
    again = plan_device(DeviceProblem.of(memories, rows), time_limit_s=0.05, warm_start=earlier)
    assert again.cost <= earlier.cost
    # Of a problem like it: a buffer is new, one is gone, a memory has another name.
    changed = DeviceProblem.of(
        [*memories, DeviceMemory("flash", cost_per_byte=9)], [*rows[1:], *buffers(("new", 64, 3, 9))]
    )
    check_device(changed, *columns(plan_device(changed, time_limit_s=0.2, warm_start=earlier.by_id())))


def columns(planned: DevicePlan) -> tuple[object, object, object]:
    return planned.memories, planned.chunks, planned.offsets


def test_a_warm_start_of_one_arena() -> None:
    problem = cut_rectangle(100, seed=0)
    earlier = plan(problem, time_limit_s=5)
    assert earlier.arena_bytes == problem.lower_bound_bytes
    again = plan(problem, planner="skyline", warm_start=earlier)
    assert (again.arena_bytes, again.planner) == (earlier.arena_bytes, "warm_start")
    assert plan(problem, warm_start=earlier, time_limit_s=0.05).arena_bytes == earlier.arena_bytes
    # In part: as many buffers as before, some without a place.
    offsets = earlier.offsets.copy()
    offsets[::7] = -1
    assert plan(problem, warm_start=offsets, time_limit_s=0.05).gap < 0.6
    with pytest.raises(InvalidProblemError, match="3 offsets for 100"):
        plan(problem, warm_start=[0, 1, 2])


def test_a_warm_start_with_pins_and_a_capacity() -> None:
    problem = Problem.from_arrays(
        [8, 8, 8], [0, 0, 1], [2, 2, 3], alignment_bytes=1, pinned_offsets=[-1, 8, -1], capacity_bytes=24
    )
    assert plan(problem, warm_start=[0, 8, 16]).arena_bytes <= 24
    # One that is no plan of it, too.
    assert plan(problem, warm_start=[8, 8, 8]).arena_bytes <= 24


def test_progress_ends_a_search() -> None:
    problem = DeviceProblem.of_problem(cut_rectangle(900, seed=1, dropped=0.05))
    told: list[int | None] = []

    def end(best: int | None) -> bool:
        told.append(best)
        return False

    planned = plan_device(problem, time_limit_s=60, progress=end)
    assert len(told) == 1
    assert planned.elapsed_s < 20


def test_threads_plan_at_once() -> None:
    problems = [DeviceProblem.of_problem(cut_rectangle(40, seed=seed)) for seed in range(4)]
    found: list[int] = [0] * 4

    def work(index: int) -> None:
        found[index] = plan_device(problems[index], time_limit_s=5).arena_bytes["memory"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1024 * 1024] * 4


def cheapest(problem: DeviceProblem) -> int | None:
    """The least cost by trying every place in every memory, byte by byte; for a handful of tiny buffers."""
    sizes = [buffer.size for buffer in problem.buffers]
    best: int | None = None
    choices = []
    for index, own in enumerate(problem.buffers):
        choices.append(
            [
                (memory, offset)
                for memory, entry in enumerate(problem.memories)
                if problem.costs[index][memory] >= 0
                for offset in range(0, (entry.capacity_bytes or 8) - own.size + 1, own.alignment)
            ]
        )
    for places in itertools.product(*choices):
        cost = sum(int(problem.costs[index][memory]) for index, (memory, _) in enumerate(places))
        if best is not None and cost >= best:
            continue
        taken: set[tuple[int, int, int]] = set()
        cells = [
            (memory, offset + byte, tick)
            for (memory, offset), size, own in zip(places, sizes, problem.buffers, strict=True)
            for start, end in own.lifetimes
            for tick in range(start, end)
            for byte in range(size)
        ]
        taken.update(cells)
        if len(taken) == len(cells):
            best = cost
    return best


def test_costs_agree_with_trying_every_place() -> None:
    random = np.random.default_rng(5)
    num_feasible = 0
    for _ in range(150):
        memories = [DeviceMemory("a", int(random.integers(1, 6))), DeviceMemory("b", int(random.integers(1, 6)))]
        rows = []
        for i in range(int(random.integers(1, 5))):
            start = int(random.integers(0, 4))
            costs = {"a": int(random.integers(0, 4)), "b": int(random.integers(0, 9))}
            if random.random() < 0.2:
                del costs["a"]
            lifetime = (start, start + int(random.integers(1, 4)))
            rows.append(
                DeviceBuffer(f"b{i}", int(random.integers(1, 4)), (lifetime,), int(random.integers(1, 3)), costs)
            )
        problem = DeviceProblem.of(memories, rows)
        expected = cheapest(problem)
        if expected is None:
            with pytest.raises(CapacityError) as caught:
                plan_device(problem, time_limit_s=10)
            assert caught.value.proven
            continue
        num_feasible += 1
        planned = plan_device(problem, time_limit_s=10)
        assert (planned.cost, planned.proven_cheapest) == (expected, True)
        assert planned.lower_bound_cost == expected
    assert num_feasible > 60
