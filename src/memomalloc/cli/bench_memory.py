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
import sys
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import named, output_file, some_of, whole
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.errors import FileFormatError
from memomalloc.extras import require
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.bench.memory_results import MemoryCase, MemoryResults, MemoryRow

HELP = "measure the memory of whole processes, with and without plans"

# Written out, not imported: the help must not import torch. A test compares them.
_PROCESSES = ("six-models", "25-sizes", "threads")
_UPSTREAMS = ("glibc", "glibc-tuned", "glibc-huge-pages", "jemalloc", "jemalloc-tuned", "tcmalloc", "mimalloc")
_DEFAULT_UPSTREAMS = ("glibc", "jemalloc", "tcmalloc", "mimalloc")
#: Rounds of a smoke run: enough for a plan to be learned and replayed.
_SMOKE_ROUNDS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--only", metavar="NAMES", type=some_of(_PROCESSES), default=_PROCESSES, help=f"of {', '.join(_PROCESSES)}")
    add(
        "--upstream",
        metavar="NAMES",
        type=some_of(_UPSTREAMS),
        default=_DEFAULT_UPSTREAMS,
        help=f"of {', '.join(_UPSTREAMS)} (default: {','.join(_DEFAULT_UPSTREAMS)})",
    )
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
    from memomalloc.cli.results_output import how_to_go_on, is_stream, require_new

    require_outputs(args.output)
    # A pipe or a terminal takes results once, at the end.
    is_file = not is_stream(args.output)
    if not args.resume and not args.smoke:
        require_new(args.output)
    results = MemoryResults.here(
        seed=args.seed, rounds=min(args.rounds, _SMOKE_ROUNDS) if args.smoke else args.rounds, smoke=args.smoke
    )
    if args.resume and args.output.is_file():
        results = _resumed(args.output, results)
    results.processes |= {name: PROCESSES[name].what for name in args.only}
    cases = [
        MemoryCase(process, upstream, shapes)
        for upstream in args.upstream
        for process in args.only
        for shapes in (PLAIN, *PROCESSES[process].shapes)
    ]
    to = sys.stderr if args.output == STANDARD_OUTPUT else sys.stdout
    has_line = to.isatty()

    def on_progress(case: MemoryCase, number: int) -> None:
        if has_line:
            done = sum(row.case in cases for row in results.rows)
            text = f"{done + 1} of {len(cases)}: {case}: round {number + 1} of {results.rounds}"
            print(f"\r\x1b[K{text}", end="", file=to, flush=True)

    def on_row(row: MemoryRow) -> None:
        print(("\r\x1b[K" if has_line else "") + harmless(row_text(row)), file=to, flush=True)

    try:
        run_memory_session(
            cases, results, path=args.output if is_file else None, on_progress=on_progress, on_row=on_row
        )
    except KeyboardInterrupt:
        print(f"memomalloc: interrupted; {how_to_go_on(len(results.rows), args.output)}", file=sys.stderr)
        return INTERRUPTED
    finally:
        if not is_file:
            results.save(args.output)
    out = named(args.output)
    print(f"{len(results.rows)} rows are in {out}; memomalloc bench report {out} shows them", file=to)
    return 1 if any(row.error for row in results.rows) else 0


def _resumed(path: object, new: MemoryResults) -> MemoryResults:
    """The old results, if what is measured now may stand beside them."""
    from memomalloc.bench.memory_results import MemoryResults
    from memomalloc.bench.results_file import load_results
    from memomalloc.bench.session import require_same_conditions

    old = load_results(str(path))
    if not isinstance(old, MemoryResults):
        raise FileFormatError(str(path), "results of something else, not of processes' memory")
    require_same_conditions(old.conditions(), new.conditions())
    return old
