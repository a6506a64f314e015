from __future__ import annotations

from typing import Any

import pytest

from memomalloc import DeviceBuffer, DeviceMemory, DeviceProblem, Place, Problem, plan
from memomalloc.data import check_device
from memomalloc.errors import InvalidPlanError, InvalidProblemError

SRAM, DRAM = DeviceMemory("sram", 100), DeviceMemory("dram", cost_per_byte=2)


def buffer(name: str, size: int = 10, *lifetimes: tuple[int, ...], **extra: Any) -> DeviceBuffer:
    return DeviceBuffer(name, size, lifetimes or ((0, 1),), **extra)


def test_costs_are_those_of_the_memory_unless_stated() -> None:
    problem = DeviceProblem.of(
        [SRAM, DRAM], [buffer("a"), buffer("b", costs={"dram": 7}), buffer("c", costs={"sram": 0, "dram": 1})]
    )
    assert problem.costs.tolist() == [[0, 20], [-1, 7], [0, 1]]


@pytest.mark.parametrize(
    ("memories", "buffers", "extra", "message"),
    [
        ([], [], {}, "1 to 64 memories"),
        ([SRAM, DeviceMemory("sram")], [], {}, "memory 'sram': two memories"),
        ([DeviceMemory("")], [], {}, "not empty"),
        ([DeviceMemory("m", -1)], [], {}, "capacity_bytes = -1"),
        ([DeviceMemory("m", bank_bytes=0)], [], {}, "bank_bytes = 0"),
        ([DeviceMemory("m", chunk_bytes=True)], [], {}, "chunk_bytes = True"),
        ([SRAM], [buffer("a"), buffer("a")], {}, "buffer 'a': two buffers"),
        ([SRAM], [DeviceBuffer(3, 1, ((0, 1),))], {}, "its id must be a text"),  # type: ignore[arg-type]
        ([SRAM], [buffer("a", -1)], {}, "buffer 'a': size = -1"),
        ([SRAM], [buffer("a", 1.5)], {}, "size = 1.5"),  # type: ignore[arg-type]
        ([SRAM], [buffer("a", 2**62)], {}, "size ="),
        ([SRAM], [buffer("a", alignment=0)], {}, "alignment = 0"),
        ([SRAM], [DeviceBuffer("a", 1, ())], {}, "no lifetime"),
        ([SRAM], [buffer("a", 10, (1, 1))], {}, r"\[1, 1\) is empty"),
        ([SRAM], [buffer("a", 10, (0, 3), (2, 4))], {}, "overlap"),
        ([SRAM], [buffer("a", 10, (0, 3, 2, 11))], {}, "end of the bytes in use = 11"),
        ([SRAM], [buffer("a", 10, (0, 3, 2))], {}, r"must be \(start, end\)"),
        ([SRAM], [buffer("a", costs={"flash": 1})], {}, "no memory 'flash'"),
        ([SRAM], [buffer("a", costs={})], {}, "lie nowhere"),
        ([SRAM], [buffer("a", costs={"sram": -1})], {}, "cost in 'sram' = -1"),
        ([SRAM, DRAM], [buffer("a", costs={"sram": 0}, pin=Place("dram", 0))], {}, "may not lie"),
        ([SRAM], [buffer("a", pin=Place("flash", 0))], {}, "may not lie"),
        ([SRAM], [buffer("a", alignment=4, pin=Place("sram", 2))], {}, "pin 2 is not a multiple"),
        ([SRAM], [buffer("a", pin=Place("sram", 0, 1))], {}, "without chunks"),
        ([SRAM], [buffer("a")], {"aliases": [{"a": 0, "x": 0}]}, "no buffer 'x'"),
        ([SRAM], [buffer("a")], {"aliases": [{}]}, "no buffers"),
        ([SRAM], [buffer("a")], {"aliases": [{"a": 4}]}, "begin at 0"),
        ([SRAM], [buffer("a")], {"aliases": [{"a": 0}, {"a": 0}]}, "in another group"),
        ([SRAM], [buffer("a"), buffer("b", alignment=4)], {"aliases": [{"a": 0, "b": 2}]}, "sub-offset 2"),
        (
            [SRAM],
            [buffer("a", pin=Place("sram", 0)), buffer("b", pin=Place("sram", 0))],
            {"aliases": [{"a": 0, "b": 4}]},
            "pins contradict",
        ),
        ([SRAM], [buffer("a")], {"disjoint": [("a", "a")]}, "two buffers"),
        ([SRAM], [buffer("a")], {"disjoint": [("a", "b")]}, "no buffer 'b'"),
        (
            [SRAM],
            [buffer("a"), buffer("b")],
            {"disjoint": [("a", "b")], "aliases": [{"a": 0, "b": 5}]},
            "they alias",
        ),
        (
            [SRAM],
            [buffer("a"), buffer("b")],
            {"different_banks": [("a", "b")], "aliases": [{"a": 0, "b": 10}]},
            "they alias",
        ),
        ([SRAM], [buffer(f"b{i}", 2**60) for i in range(4)], {}, "sum to more"),
        ([DeviceMemory("m", bank_bytes=2**59)], [buffer("a"), buffer("b")], {}, "sum to more"),
        ([DeviceMemory("m", cost_per_byte=2**40)], [buffer("a", 2**30)], {}, "costs sum"),
    ],
)
def test_what_is_no_problem_is_refused_by_name(
    memories: list[DeviceMemory], buffers: list[DeviceBuffer], extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        DeviceProblem.of(memories, buffers, **extra)


CHECKED = DeviceProblem.of(
    [DeviceMemory("sram", 64, bank_bytes=16), DeviceMemory("gpu", chunk_bytes=32, cost_per_byte=1)],
    [
        buffer("a", 16, (0, 4)),
        buffer("b", 16, (2, 6), alignment=8),
        buffer("c", 8, (6, 9), costs={"sram": 0}),
        buffer("left", 8, (0, 2)),
        buffer("right", 8, (0, 4)),
        buffer("gap", 16, (0, 1), (5, 6)),
        buffer("pinned", 4, (9, 10), pin=Place("gpu", 4, 1)),
    ],
    aliases=[{"left": 0, "right": 8}],
    disjoint=[("a", "c")],
    different_banks=[("b", "c")],
)
VALID = {"a": (0, 0, 0), "b": (0, 0, 16), "c": (0, 0, 32), "left": (0, 0, 32), "right": (0, 0, 40), "gap": (0, 0, 48)}
VALID["pinned"] = (1, 1, 4)


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        ({}, ""),
        ({"gap": (1, 3, 16)}, ""),
        ({"left": (1, 0, 0), "right": (1, 0, 8)}, ""),
        ({"a": (2, 0, 0)}, "'a' .* lies in no memory"),
        ({"a": (0, 1, 0)}, "'a' .* lies in no memory or chunk"),
        ({"a": (0, 0, -1)}, "'a' .* lies in no memory"),
        ({"c": (1, 0, 0)}, "'c' .* may not lie"),
        ({"b": (0, 0, 20)}, "'b' .* no multiple"),
        ({"pinned": (1, 1, 8)}, "'pinned' .* at its pin"),
        ({"a": (1, 2, 17)}, "'a' .* beyond its chunk"),
        ({"a": (0, 0, 49)}, "'a' .* beyond the capacity"),
        ({"right": (0, 0, 41)}, "'left' .* and .*'right' .* alias"),
        ({"left": (1, 0, 0)}, "alias"),
        ({"b": (0, 0, 8)}, "share bytes: .*'[ab]'"),
        ({"gap": (0, 0, 4)}, "share bytes"),
        ({"left": (0, 0, 40), "right": (0, 0, 48), "gap": (0, 0, 40)}, "share bytes: .*'(left|gap)'"),
        ({"c": (0, 0, 8)}, "'a' .* and .*'c' .* must not overlap"),
        ({"c": (0, 0, 24)}, "share a bank"),
    ],
)
def test_the_checker_finds_each_fault(moved: dict[str, tuple[int, int, int]], message: str) -> None:
    places = {**VALID, **moved}
    columns = zip(*(places[own.id] for own in CHECKED.buffers), strict=True)
    if not message:
        check_device(CHECKED, *columns)
        return
    with pytest.raises(InvalidPlanError, match=message):
        check_device(CHECKED, *columns)


def test_a_problem_with_one_memory_states_the_same() -> None:
    problem = Problem.from_arrays(
        [100, 60, 200],
        [0, 1, 4],
        [3, 6, 9],
        alignments=[64, 128, 64],
        pinned_offsets=[-1, 256, -1],
        ids=["x", "y", "z"],
    )
    device = DeviceProblem.of_problem(problem)
    check_device(device, [0] * 3, [0] * 3, plan(problem).offsets)
    assert device.buffers[1].pin == Place("memory", 256)
