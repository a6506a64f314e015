"""What planners are compared on: the files that are named, or else what this package ships and generates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.bench.lifetime_families import FAMILIES
from memomalloc.data.any_file import read_trace_or_problem
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace

#: Buffers, seed and share of dropped pieces of the generated instances.
HARD = ((100, 1, 0.0), (150, 2, 0.05), (300, 3, 0.0), (400, 4, 0.05))
SMOKE_HARD = ((30, 1, 0.0),)

#: Numbers of buffers of the families of lifetimes.
NUM_BUFFERS = (1000, 20_000)
SMOKE_NUM_BUFFERS = 40
SMOKE_FAMILIES = ("fifo", "mixed-alignment")


def read_instance(path: Path) -> Problem:
    """A CSV file of MiniMalloc or a trace file.

    Raises:
        FileFormatError: it is neither.
    """
    found = read_trace_or_problem(path)
    return found.problem() if isinstance(found, Trace) else found


def shipped_instances() -> Iterable[tuple[str, Problem]]:
    """The traces that this project recorded."""
    folder = resources.files("memomalloc.bench") / "instances"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith((".csv", ".jsonl", ".gz")):
            with resources.as_file(entry) as path:
                yield entry.name, read_instance(path)


def generated_instances(
    num_buffers: Sequence[int] = NUM_BUFFERS, *, smoke: bool = False
) -> Iterable[tuple[str, Problem]]:
    """Rectangles cut at random, and every family of lifetimes with each number of buffers; ``smoke``: small ones."""
    for size, seed, dropped in SMOKE_HARD if smoke else HARD:
        name = f"cut-{size}" + (f"-drop-{dropped:.0%}" if dropped else "")
        yield name, cut_rectangle(size, seed=seed, dropped=dropped)
    for size in (SMOKE_NUM_BUFFERS,) if smoke else num_buffers:
        for name in SMOKE_FAMILIES if smoke else FAMILIES:
            yield f"{name}-{size}", FAMILIES[name](size)
