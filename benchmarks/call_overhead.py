"""What a planned call costs beyond the model's own work, and what small models gain or lose by being planned.

    python benchmarks/call_overhead.py --json build/call_overhead.json

For each program it gives two figures, each the median of many short pairs that alternate in one process:

- ``cost``: of the way from ``model(...)`` to the plan and back, with the program's arguments and a function that does
  nothing. In processor time, the difference in microseconds.
- ``ratio``: plain over planned, of the program itself, once it has run for a while: a plan that turns out to gain
  nothing is not used any more then.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import memomalloc

Arguments = tuple[Any, ...]

#: For how long a program runs before it is timed.
SETTLE_S = 4.0
#: Inputs of a program whose sizes vary; both sides of a pair are called with the same ones.
NUM_VARIOUS = 256


class Recommender(torch.nn.Module):
    """A bag of embeddings for each table, and a small head: the shape of what ranking services run."""

    def __init__(self, num_tables: int, width: int) -> None:
        super().__init__()
        self.tables = torch.nn.ModuleList([torch.nn.EmbeddingBag(100, width, mode="sum") for _ in range(num_tables)])
        self.head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    def forward(self, dense: torch.Tensor, indices: list[torch.Tensor], offsets: list[torch.Tensor]) -> torch.Tensor:
        """A score for each row."""
        bags = zip(self.tables, indices, offsets, strict=True)
        return self.head(sum((table(index, offset) for table, index, offset in bags), start=dense))


@dataclass(frozen=True)
class Program:
    """A model and its calls.

    Attributes:
        name: for the table.
        model: what is called.
        inputs: the arguments of its calls, in turn.
        shapes: a policy of ``optimize``.
    """

    name: str
    model: torch.nn.Module
    inputs: list[Arguments]
    shapes: str = "exact"

    @property
    def num_tensors(self) -> int:
        """Of a call."""
        return sum(1 if isinstance(value, torch.Tensor) else len(value) for value in self.inputs[0])


@dataclass(frozen=True)
class Overhead:
    """What was measured of a program.

    Attributes:
        name: the program's.
        num_tensors: that a call of it takes.
        plain_us: of one call of the model, in microseconds of the clock.
        cost_us: that a planned call takes beyond its function; with the quartiles of the pairs.
        ratio: plain over planned; with the quartiles of the pairs.
        num_pairs: of each of the two.
        served_share: of the requests of planned calls.
    """

    name: str
    num_tensors: int
    plain_us: float
    cost_us: tuple[float, float, float]
    ratio: tuple[float, float, float]
    num_pairs: int
    served_share: float


def recommender_inputs(num_tables: int, width: int, *, various: bool) -> list[Arguments]:
    """One call, or many with other numbers of rows and of indices in each."""
    generator = torch.Generator().manual_seed(0)
    calls: list[Arguments] = []
    for _ in range(NUM_VARIOUS if various else 1):
        rows = int(torch.randint(50, 100, (1,), generator=generator)) if various else 64
        counts = torch.randint(rows, 5 * rows, (num_tables,), generator=generator).tolist()
        indices = [torch.randint(100, (count if various else 2 * rows,), generator=generator) for count in counts]
        calls.append((torch.zeros(rows, width), indices, [torch.arange(rows) for _ in counts]))
    return calls


def programs() -> list[Program]:
    """From one small layer to a recommender of many arguments."""
    linear = torch.nn.Linear(16, 16)
    mlp = torch.nn.Sequential(
        torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64)
    )
    small, large = Recommender(4, 32), Recommender(16, 8)
    return [
        Program("linear_16", linear, [(torch.randn(1, 16),)]),
        Program("mlp_3", mlp, [(torch.randn(8, 256),)]),
        Program("dlrm_9", small, recommender_inputs(4, 32, various=False)),
        Program("dlrm_9_various", small, recommender_inputs(4, 32, various=True), "auto"),
        Program("recommender_33", large, recommender_inputs(16, 8, various=False)),
        Program("recommender_33_various", large, recommender_inputs(16, 8, various=True), "auto"),
    ]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The median, and the first and the third quartile."""
    first, median, third = statistics.quantiles(values, n=4)
    return median, first, third


def pairs(
    plain: Callable[..., Any], planned: Callable[..., Any], inputs: list[Arguments], num_pairs: int, block_us: float
) -> list[tuple[float, float]]:
    """Microseconds of one call, plain and planned, of so many pairs of short blocks that alternate."""
    start = time.perf_counter()
    for call in inputs[:8] * 4:
        plain(*call)
    one_us = (time.perf_counter() - start) / (4 * min(len(inputs), 8)) * 1e6
    num_calls = max(1, round(block_us / one_us))

    def timed(function: Callable[..., Any], calls: list[Arguments]) -> float:
        start_s = time.thread_time()
        for call in calls:
            function(*call)
        return (time.thread_time() - start_s) / len(calls) * 1e6

    measured = []
    at = 0
    for pair in range(num_pairs):
        calls = [inputs[(at + i) % len(inputs)] for i in range(num_calls)]
        at += num_calls
        if pair % 2:
            planned_us, plain_us = timed(planned, calls), timed(plain, calls)
        else:
            plain_us, planned_us = timed(plain, calls), timed(planned, calls)
        measured.append((plain_us, planned_us))
    return measured


def nothing(*args: object) -> None:
    """A model without work."""


def learned(function: Any, program: Program, *, keep_plans: bool = False) -> Any:
    """The function, planned, called until its plan is there and has seen what calls there are."""
    planned = memomalloc.optimize(function, shapes=program.shapes, keep_plans=keep_plans)
    for _ in range(3 if len(program.inputs) > 1 else 20):
        for call in program.inputs:
            planned(*call)
    assert planned.plans, f"{program.name} was not planned"
    return planned


def settle(planned: Any, program: Program, seconds: float) -> None:
    """Let a plan show what it is worth."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call in program.inputs:
            planned(*call)


def measure(program: Program, num_pairs: int, settle_s: float) -> Overhead:
    """Measure a program."""
    program.model.eval()
    gc.collect()
    with torch.inference_mode():
        idle = learned(nothing, program, keep_plans=True)  # else it is soon found to gain nothing
        costs = pairs(nothing, idle, program.inputs, num_pairs, 100)
        planned = learned(program.model, program)
        settle(planned, program, settle_s)
        times = pairs(program.model, planned, program.inputs, num_pairs, 300)
    return Overhead(
        program.name,
        program.num_tensors,
        statistics.median(plain for plain, _ in times),
        quartiles([with_plan - plain for plain, with_plan in costs]),
        quartiles([plain / with_plan for plain, with_plan in times]),
        num_pairs,
        planned.stats().served_share,
    )


def main() -> None:
    """Measure, print, and keep the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--smoke", action="store_true", help="few pairs")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'program':<24}{'tensors':>8}{'plain':>10}{'cost of a call':>28}{'plain / planned':>26}")
    measured = []
    for program in programs():
        row = measure(program, *((20, 0.0) if args.smoke else (args.pairs, SETTLE_S)))
        measured.append(row)
        cost, ratio = row.cost_us, row.ratio
        print(
            f"{row.name:<24}{row.num_tensors:>8}{row.plain_us:>7.1f} us"
            f"{cost[0]:>9.2f} us ({cost[1]:5.2f} to {cost[2]:5.2f})"
            f"{ratio[0]:>9.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})"
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in measured], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
