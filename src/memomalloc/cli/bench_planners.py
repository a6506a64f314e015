"""Compare the planners: arena to lower bound (* where proven optimal) and seconds, for each on every instance.

FILES are CSV files of MiniMalloc or trace files; `-` is standard input. Without any, the traces that this package ships
are taken, generated instances with known optimum, and generated families of lifetimes (queues, staircases, pipelines,
few sizes, mixed alignments and others). omnimalloc runs beside our own planners where `pip install omnimalloc` was run,
and MiniMalloc where its package is installed as well; neither takes alignments or pins. A FILE that is `-` is standard
output, and gets what it is to hold instead of the tables.

examples:
  memomalloc bench planners
  memomalloc bench planners A.csv B.csv --planners auto,skyline,greedy_by_size --time-limit 10
  memomalloc bench planners --buffers 100,5000 --planners auto,skyline
  memomalloc bench planners --json results.json --markdown table.md
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import file_name, input_file, names, output_file, time_limit, whole
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.bench.planner_results import PlannerResults
    from memomalloc.data.problem import Problem

HELP = "every planner on every instance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="*", type=input_file, metavar="FILES", help="instances (default: our own)")
    parser.add_argument(
        "--buffers", type=_numbers, metavar="N,N", help="sizes of the generated families (default: 1000,20000)"
    )
    parser.add_argument(
        "--planners", metavar="NAMES", type=names, help="separated by commas (default: all that are installed)"
    )
    parser.add_argument(
        "--time-limit", type=time_limit, default=1.0, metavar="S", help="seconds for each search (default: 1)"
    )
    parser.add_argument("--seed", type=whole(), default=0, metavar="N", help="of the random choices (default: 0)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--markdown", type=output_file, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--smoke", action="store_true", help="only see that it works, in seconds")


def run(args: argparse.Namespace) -> int:
    """Measure, show, write.

    Returns:
        0; whatever goes wrong is raised.
    """
    require("rich", extra="cli", feature="memomalloc bench")
    from memomalloc.bench import planners
    from memomalloc.bench.planner_report import planner_report
    from memomalloc.bench.planner_results import PlannerResults
    from memomalloc.bench.report_markdown import markdown
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.cli.results_output import save_results
    from memomalloc.data.atomic_file import STANDARD_OUTPUT, atomic_file
    from memomalloc.planners.registry import find

    chosen = planners.planner_names() if args.planners is None else args.planners
    for name in chosen:
        if name not in planners.EXTERNAL:
            find(name)
    require_outputs(args.json, args.markdown, inputs=args.files)
    instances = _instances(args)
    time_limit_s = 0.1 if args.smoke else args.time_limit
    results = PlannerResults.here(time_limit_s=time_limit_s, seed=args.seed)
    try:
        _measure(results, instances, chosen)
    finally:
        # Interrupted or not: what was measured is shown and kept.
        if STANDARD_OUTPUT not in (args.json, args.markdown):
            _show(results)
        if args.json is not None:
            save_results(results, args.json)
        if args.markdown is not None:
            with atomic_file(args.markdown) as file:
                text = markdown(planner_report(results), command="memomalloc bench planners", pictures={})
                file.write(text.encode())
    return 0


def _instances(args: argparse.Namespace) -> list[tuple[str, Problem]]:
    from memomalloc.bench.planner_instances import (
        NUM_BUFFERS,
        generated_instances,
        read_instance,
        shipped_instances,
    )

    if args.files:
        return [(file_name(path), read_instance(path)) for path in args.files]
    shipped = [] if args.smoke else list(shipped_instances())
    return shipped + list(generated_instances(args.buffers or NUM_BUFFERS, smoke=args.smoke))


def _numbers(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isascii() and number.isdigit() and 0 < len(number) < 9 and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no list of whole numbers from 1 to 99999999, as 100,1000")
    return [int(number) for number in numbers]


def _measure(results: PlannerResults, instances: list[tuple[str, Problem]], names: list[str]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from memomalloc.bench.planners import compare
    from memomalloc.report.terminal import name_text

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refreshing thread: it would take the processor from what is being measured.
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("planning", total=len(instances) * len(names))
        for measurement in compare(instances, names, time_limit_s=results.time_limit_s, seed=results.seed):
            results.rows.append(measurement)
            progress.update(task, advance=1, description=name_text(measurement.instance).markup)
            progress.refresh()


def _show(results: PlannerResults) -> None:
    from rich.table import Table

    from memomalloc.report.terminal import console_for_tables, name_text

    console = console_for_tables()
    for row in results.by_instance().values():
        title = f"{row[0].instance}: {row[0].num_buffers} buffers, lower bound {row[0].lower_bound_bytes} bytes"
        table = Table("planner", title=name_text(title), title_justify="left")
        for heading in ("arena / bound", "arena bytes", "seconds"):
            table.add_column(heading, justify="right")
        for measurement in row:
            if measurement.ratio is None:
                table.add_row(measurement.planner, name_text(measurement.note), "", "")
                continue
            proof = " *" if measurement.proven_optimal else "  "
            table.add_row(
                measurement.planner,
                f"{measurement.ratio:.4f}{proof}",
                str(measurement.arena_bytes),
                f"{measurement.elapsed_s:.4f}",
            )
        console.print(table)
    console.print("* proven optimal")
