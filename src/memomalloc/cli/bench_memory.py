"""Measure how much memory whole processes need, with and without plans, over every allocator.

Each process holds models and calls them in random order, as a server does: six models in turn, one model with images of
25 sizes, a network behind a thread for each request. What is measured is by how much its physical memory grows over the
loaded process: at the peak, learning included, and at the end. The results are written to OUT after each row: an
interrupted session goes on with --resume.

examples:
  memomalloc bench memory --output memory.json
  memomalloc bench memory --only threads --upstream glibc,jemalloc --output threads.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import output_file, some_of, whole
from memomalloc.cli.upstream_option import add_upstream
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.bench.memory_results import MemoryCase

HELP = "measure the memory of whole processes, with and without plans"

# Written out, not imported: the help must not import torch. A test compares them.
_PROCESSES = ("six-models", "25-sizes", "threads")
_DEFAULT_UPSTREAMS = ("glibc", "jemalloc", "tcmalloc", "mimalloc")
#: Rounds of a smoke run: enough for a plan to be learned and replayed.
_SMOKE_ROUNDS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--only", metavar="NAMES", type=some_of(_PROCESSES), default=_PROCESSES, help=f"of {', '.join(_PROCESSES)}")
    add_upstream(parser, _DEFAULT_UPSTREAMS)
    add("--output", "-o", metavar="OUT", type=output_file, required=True, help="the results file (JSON)")
    add("--resume", action="store_true", help="keep the rows that OUT has, and measure the others")
    add("--rounds", metavar="N", type=whole(1, 10**6), default=7, help="each call once in each (default: 7)")
    add("--seed", type=whole(), default=0, help="of weights, inputs and the order of calls (default: 0)")
    add("--smoke", action="store_true", help="only see that it works: small inputs, few rounds; OUT is replaced")


def run(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        0 if every row was measured; else 1.
    """
    require("torch", extra="demo", feature="memomalloc bench memory")
    if set(args.only) - {"threads"}:
        require("transformers", extra="demo", feature="memomalloc bench memory")
    from memomalloc.bench.memory_processes import PROCESSES
    from memomalloc.bench.memory_report import row_text
    from memomalloc.bench.memory_results import PLAIN, MemoryCase, MemoryResults
    from memomalloc.bench.memory_session import run_memory_session
    from memomalloc.cli import INTERRUPTED
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.cli.results_output import RowLines, how_to_see, require_new, resumed, run_to_its_end

    require_outputs(args.output)
    if not args.resume and not args.smoke:
        require_new(args.output)
    rounds = min(args.rounds, _SMOKE_ROUNDS) if args.smoke else args.rounds
    results = MemoryResults.here(seed=args.seed, rounds=rounds, smoke=args.smoke)
    results = resumed(args, results, of="processes' memory")
    results.processes |= {name: PROCESSES[name].what for name in args.only}
    cases = [
        MemoryCase(process, upstream, shapes)
        for upstream in args.upstream
        for process in args.only
        for shapes in (PLAIN, *PROCESSES[process].shapes)
    ]
    lines = RowLines(args.output)

    def on_progress(case: MemoryCase, number: int) -> None:
        done = sum(row.case in cases for row in results.rows)
        lines.progress(f"{done + 1} of {len(cases)}: {case}: round {number + 1} of {results.rounds}")

    def measure(path: Path | None) -> None:
        run_memory_session(
            cases, results, path=path, on_progress=on_progress, on_row=lambda row: lines.add(row_text(row))
        )

    if not run_to_its_end(measure, results, args.output):
        return INTERRUPTED
    lines.add(how_to_see(results, args.output))
    return 1 if any(row.error for row in results.rows) else 0
