"""Measure on real models what memomalloc gains on this machine, in under two minutes.

Three models with random weights (nothing is downloaded) are run with the allocator that is there and with a plan, in
turns, in one process and on one thread. Another allocator than glibc's has to be preloaded, for example:
LD_PRELOAD=libjemalloc.so.2 memomalloc demo
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import named, output_file
from memomalloc.extras import require

if TYPE_CHECKING:
    from rich.console import Console

    from memomalloc.bench.results import Results

HELP = "measure the gain on real models, in under two minutes"

#: The table needs so many columns; a file or pipe has no width of its own.
_TABLE_WIDTH = 125
_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write all figures and raw samples to FILE"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="only see that it works: small inputs, few pairs, in seconds"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 if every row was measured, all results were equal bit for bit and every request was served; else 1.
    """
    require("rich", extra="demo", feature="memomalloc demo")
    require("torch", extra="demo", feature="memomalloc demo")
    require("transformers", extra="demo", feature="memomalloc demo")
    from rich.console import Console

    from memomalloc.bench import demo
    from memomalloc.bench.results import Results
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.cli.results_output import save_results
    from memomalloc.data.atomic_file import STANDARD_OUTPUT

    require_outputs(args.json)
    console = Console(stderr=args.json == STANDARD_OUTPUT)
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH, stderr=args.json == STANDARD_OUTPUT)
    effort = demo.SMOKE_EFFORT if args.smoke else demo.EFFORT
    results = Results.here(seed=_SEED, repetitions=dataclasses.asdict(effort))
    began = time.perf_counter()
    try:
        _measure(results, console, smoke=args.smoke)
    finally:
        # Interrupted or not: what was measured is shown and kept.
        _show(results, console, elapsed_s=time.perf_counter() - began)
        if args.json is not None:
            save_results(results, args.json)
            console.print(f"All figures and samples are in {named(args.json)}", highlight=False, markup=False)
    return 0 if all(row.status == "ok" for row in results.rows) else 1


def _measure(results: Results, console: Console, *, smoke: bool) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from memomalloc.bench import demo
    from memomalloc.bench.case import Case

    cases = demo.demo_cases(smoke=smoke)
    upstream = cases[0][1].upstream
    console.print(
        f"{results.machine['processor']}, {results.machine['num_cores']} cores; torch "
        f"{results.versions.get('torch', '?')}; upstream allocator {upstream}; one intra-op thread"
    )
    # No refreshing thread: it would take the processor from what is being measured.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=len(cases))
        last_refresh = 0.0

        def show(number: int, case: Case, stage: str, share: float) -> None:
            nonlocal last_refresh
            now = time.monotonic()
            if share in (0.0, 1.0) or now - last_refresh > 0.25:
                last_refresh = now
                progress.update(
                    task,
                    description=f"{case.model}, batch {case.batch}: {stage}",
                    completed=number + share,
                    refresh=True,
                )

        demo.run_demo(results, smoke=smoke, on_progress=show)


def _show(results: Results, console: Console, *, elapsed_s: float) -> None:
    from memomalloc.bench.demo_table import demo_table
    from memomalloc.bench.row_text import conclusion, what_gains

    if not results.rows:
        return
    console.print(demo_table(results.rows))
    for row in results.rows:
        # No markup: an error may have brackets.
        console.print(conclusion(row), style=None if row.status == "ok" else "bold red", highlight=False, markup=False)
    if hint := what_gains(results.rows):
        console.print(hint, highlight=False, markup=False)
    if all(row.results_equal for row in results.rows):
        console.print("Results with and without the plan were equal bit for bit in every row.")
    console.print(
        "ratio: latency before over latency after, median over pairs of calls made in turns.\n"
        "peak memory: growth of the process's physical memory while inferring. lower bound: no arena can be smaller.",
        style="dim",
        highlight=False,
    )
    console.print(f"Took {elapsed_s:.0f} s.", style="dim", highlight=False)
