"""Measure models with and without a plan, over every allocator underneath.

Each row is one model in one situation. Calls with and without the plan alternate in one process, and the ratio of
their latencies, pair by pair, is the result; every allocator has processes of its own. The results are written to OUT
after each row: an interrupted session goes on with --resume. Options that take several values take all combinations.

examples:
  memomalloc bench models --suite demo --upstream glibc,jemalloc,tcmalloc,mimalloc --output results.json
  memomalloc bench models --suite user --model my_module:build,my_module:other --batch 1,4 --output results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memomalloc.cli.option_types import output_file, some_of, time_limit, whole
from memomalloc.cli.upstream_option import add_upstream
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.extras import require
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from rich.console import Console

    from memomalloc.bench.row import Row
    from memomalloc.bench.session import Progress
    from memomalloc.bench.upstream_process import Request

HELP = "measure models with and without a plan, over every allocator"

# Written out, not imported: the help must not import torch. A test compares them.
_SUITES = ("demo", "transformers", "paper", "modern", "compilers", "user")
_MODES = ("eager", "torchscript", "compile", "compile-memory-planning")

_WIDTH = 140
#: Of samples, pixels, threads and pairs: with more of them nothing ends.
_MAX_NUMBER = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    positive = whole(1, _MAX_NUMBER)
    numbers = _list_of(positive, "whole numbers")
    add = parser.add_argument
    add("--suite", choices=_SUITES, default="demo", help="which models (default: %(default)s)")
    add(
        "--model",
        metavar="NAMES",
        type=_list_of(str, "names"),
        default=(),
        help="only these; for `user`, each a module:function",
    )
    add("--batch", metavar="N", type=numbers, default=(1, 8), help="samples of one call (default: 1,8)")
    add("--input-size", metavar="N", type=numbers, default=(), help="pixels, tokens or frames (default: the model's)")
    threads = _list_of(_number_of_threads, "whole numbers or all")
    add("--workers", metavar="N", type=threads, default=(1,), help="threads that call at once, or all (default: 1)")
    add("--intra-op-threads", metavar="N", type=threads, default=(1,), help="in one operator, or all (default: 1)")
    add("--mode", metavar="NAMES", type=some_of(_MODES), default=("eager",), help=f"of {', '.join(_MODES)}")
    add_upstream(parser, ("glibc",))
    add("--output", "-o", metavar="OUT", type=output_file, required=True, help="the results file (JSON)")
    add("--resume", action="store_true", help="keep the rows that OUT has, and measure the others")
    add("--budget", metavar="S", type=time_limit, default=6.0, help="seconds for the pairs of a process (default: 6)")
    add("--processes", metavar="N", type=positive, default=3, help="processes for each row (default: 3)")
    add("--min-pairs", metavar="N", type=positive, default=5, help="pairs of a process at least (default: 5)")
    add(
        "--time-limit",
        metavar="S",
        type=time_limit,
        default=900.0,
        help="seconds after which a row is given up (default: 900)",
    )
    add("--futex", action="store_true", help="count futex calls as well, in calls of their own under strace")
    add("--seed", type=whole(), default=0, help="of weights and inputs (default: 0)")
    add("--smoke", action="store_true", help="only see that it works: small inputs, few pairs; OUT is replaced")


def run(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        0 if every row was measured, served from its plan and equal; else 1.
    """
    require("rich", extra="demo", feature="memomalloc bench models")
    require("torch", extra="demo", feature="memomalloc bench models")
    from rich.console import Console

    from memomalloc.bench.results import Results
    from memomalloc.bench.row_text import conclusion
    from memomalloc.bench.session import run_session
    from memomalloc.cli import INTERRUPTED
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.cli.results_output import how_to_see, require_new, resumed, run_to_its_end

    to_stdout = args.output == STANDARD_OUTPUT
    console = Console(stderr=to_stdout)
    if not console.is_terminal:
        console = Console(width=_WIDTH, stderr=to_stdout)
    require_outputs(args.output)
    if not args.resume and not args.smoke:
        require_new(args.output)
    request = _request(args)
    results = Results.here(seed=args.seed, repetitions=dataclasses.asdict(request.effort))
    results = resumed(args, results, of="models")

    def on_row(row: Row) -> None:
        # No markup: an error may have brackets.
        console.print(
            harmless(f"{row.upstream}: {conclusion(row)}"),
            style=None if row.status == "ok" else "red",
            highlight=False,
            markup=False,
        )

    def measure(path: Path | None) -> None:
        with _ProgressLine(console) as line:
            run_session(request, results, path=path, on_progress=line.show, on_row=on_row)

    if not run_to_its_end(measure, results, args.output):
        return INTERRUPTED
    console.print(how_to_see(results, args.output), highlight=False, markup=False)
    return 0 if all(row.status == "ok" for row in results.rows) else 1


def _request(args: argparse.Namespace) -> Request:
    from memomalloc.bench.futex import require_strace
    from memomalloc.bench.measurement import Effort
    from memomalloc.bench.suite import USER_SUITE, Dimensions, models_of
    from memomalloc.bench.upstream_process import Request

    is_user = args.suite == USER_SUITE
    user_references = args.model if is_user else ()
    models = models_of(args.suite, user_references)
    if args.futex:
        require_strace()
    effort = Effort(
        num_processes=args.processes,
        budget_s=args.budget,
        min_pairs=args.min_pairs,
        futex=args.futex,
        time_limit_s=args.time_limit,
    )
    sizes = args.input_size
    if args.smoke:
        effort = dataclasses.replace(effort, num_processes=1, budget_s=0.1, min_pairs=2, max_pairs=5)
        sizes = sizes or (32,)
    dimensions = Dimensions(
        models=() if is_user else args.model,
        batches=args.batch,
        input_sizes=sizes,
        workers=args.workers,
        intra_op_threads=args.intra_op_threads,
        modes=args.mode,
        upstreams=args.upstream,
    )
    return Request(args.suite, user_references, args.seed, effort, tuple(dimensions.cases(args.suite, models)))


class _ProgressLine:
    """One line below the rows: what is being measured, and how long the rest takes."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        # No refreshing thread: it would take the processor from what is being measured.
        self._bar = Bar(
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=1.0)

    def __enter__(self) -> _ProgressLine:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def show(self, progress: Progress) -> None:
        """Show how far the session is."""
        from rich.markup import escape

        left = "" if progress.left_s is None else f", {time.strftime('%H:%M:%S', time.gmtime(progress.left_s))} left"
        self._bar.update(
            self._task,
            completed=(progress.num_done + progress.share) / progress.num_cases,
            description=escape(
                f"{progress.num_done + 1} of {progress.num_cases}: {progress.case}: {progress.stage}{left}"
            ),
            refresh=True,
        )


def _number_of_threads(text: str) -> int:
    """A number, or ``all``: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if text == "all" else whole(1, _MAX_NUMBER)(text)


def _list_of(kind: Callable[[str], Any], what: str) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        items = text.split(",")
        if not all(items):
            raise argparse.ArgumentTypeError(f"{text!r:.60} is no list of {what}: separate them by single commas")
        # Each once: on two cores 2 and all are the same.
        return tuple(dict.fromkeys(kind(item) for item in items))

    return parse
