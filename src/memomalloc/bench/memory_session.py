"""A session that measures the memory of processes: one process for each upstream; interruptible and resumable."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from memomalloc.bench.document import checked
from memomalloc.bench.memory_measurement import MemoryRequest
from memomalloc.bench.memory_results import MemoryCase, MemoryResults, MemoryRow
from memomalloc.bench.session import answers_of, tail
from memomalloc.bench.upstream import UPSTREAMS

_MODULE = "memomalloc.bench.memory_measurement"


def run_memory_session(
    cases: Sequence[MemoryCase],
    results: MemoryResults,
    *,
    path: str | Path | None,
    on_progress: Callable[[MemoryCase, int], None] = lambda case, number: None,
    on_row: Callable[[MemoryRow], None] = lambda row: None,
) -> None:
    """Measure all cases that ``results`` has no row of.

    Args:
        cases: those of one upstream follow each other.
        results: gets the rows.
        path: where the results are written after each row, at once and whole; None: nowhere.
        on_progress: told the case at hand, and the number of the round that begins.
        on_row: told each new row.

    Raises:
        SessionError: nothing can be measured here.
        MissingDependencyError: an allocator is not installed.
        OSError: the file cannot be written.
    """
    done = {row.case for row in results.rows}
    left = [case for case in cases if case not in done]
    # Before anything is measured: whether all of them are there.
    results.environment |= {name: UPSTREAMS[name].environment() for name in {case.upstream for case in left}}

    def take(row: MemoryRow) -> None:
        results.rows.append(row)
        if path is not None:
            results.save(path)
        on_row(row)

    for upstream, group in groupby(left, key=lambda case: case.upstream):
        _measure_upstream(list(group), results, results.environment[upstream], take, on_progress)


def _measure_upstream(
    left: list[MemoryCase],
    results: MemoryResults,
    environment: dict[str, str],
    take: Callable[[MemoryRow], None],
    on_progress: Callable[[MemoryCase, int], None],
) -> None:
    """Measure cases of one upstream. A process that dies costs the case at hand; another one does the rest."""
    while left:
        with tempfile.TemporaryFile() as log:
            request = MemoryRequest(tuple(left), results.seed, results.rounds, results.smoke)
            for answer in answers_of(_MODULE, request.as_json(), environment, log):
                if "row" in answer:
                    take(checked(MemoryRow, answer["row"], where="row"))
                    del left[0]
                else:
                    on_progress(left[0], answer["round"])
            if left:
                take(MemoryRow(**asdict(left.pop(0)), error=f"its process died: {tail(log)}"))
