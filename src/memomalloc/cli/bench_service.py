"""Measure whole services under load, with and without plans, over every allocator.

A service answers a mix of requests (models, shapes, and how often each comes) with several workers. Requests come at
given rates whether or not it keeps up, and latencies count from when they were to come. All services of a mix are there
at once and have their turns in slices, so that whatever else the machine does happens to all of them. The results are
written to OUT after each mix, way and repetition: an interrupted session goes on with --resume.

examples:
  memomalloc bench service --output service.json
  memomalloc bench service --mix vision --upstream glibc,tcmalloc --way threads,processes -o vision.json
  memomalloc bench service --mix recommend --rates 500,1000,2000 --seconds 20 --repetitions 1 -o rates.json
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import names, output_file, some_of, time_limit, whole
from memomalloc.cli.upstream_option import add_upstream
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.bench.service_results import ServiceCase

HELP = "measure whole services under load, with and without plans"

# Written out, not imported: the help must not import torch. A test compares them.
_MIXES = ("vision", "text", "recommend", "generate", "speech")
_WAYS = ("threads", "processes")
_DEFAULT_UPSTREAMS = ("glibc", "glibc-tuned", "jemalloc", "jemalloc-tuned", "tcmalloc", "mimalloc")
_SMOKE_SECONDS = 0.3
_MAX_RATE = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--mix", metavar="NAMES", type=some_of(_MIXES), default=_MIXES, help=f"of {', '.join(_MIXES)} (default: all)")
    add("--way", metavar="NAMES", type=some_of(_WAYS), default=("threads",), help="threads (default), processes")
    add_upstream(parser, _DEFAULT_UPSTREAMS)
    add("--compile", action="store_true", help="the same models under torch.compile as well, without and with plans")
    add("--workers", metavar="N", type=whole(1, 4096), help="of each service (default: one for each core)")
    add("--rates", metavar="R", type=_rates, default=(), help="requests a second (default: shares of what is possible)")
    add("--seconds", metavar="S", type=time_limit, default=8.0, help="for which a rate is held (default: 8)")
    add("--repetitions", metavar="N", type=whole(1, 1000), default=3, help="services started anew (default: 3)")
    add("--output", "-o", metavar="OUT", type=output_file, required=True, help="the results file (JSON)")
    add("--resume", action="store_true", help="keep the rows that OUT has, and measure the others")
    add("--seed", type=whole(), default=0, help="of weights, inputs and arrivals (default: 0)")
    add("--smoke", action="store_true", help="only see that it works: small inputs, one repetition; OUT is replaced")


def run(args: argparse.Namespace) -> int:
    """Measure.

    Returns:
        0 if every service was measured, and gave the results that it gives without plans; else 1.
    """
    require("torch", extra="demo", feature="memomalloc bench service")
    from memomalloc.bench.service_mixes import MIXES

    if any(MIXES[name].needs_transformers for name in args.mix):
        require("transformers", extra="demo", feature="memomalloc bench service")
    from memomalloc.bench.service_report import row_text
    from memomalloc.bench.service_results import SIDES, ServiceCase, ServiceResults
    from memomalloc.bench.service_session import run_service_session
    from memomalloc.cli import INTERRUPTED
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.cli.results_output import RowLines, how_to_see, require_new, resumed, run_to_its_end

    require_outputs(args.output)
    if not args.resume and not args.smoke:
        require_new(args.output)
    results = ServiceResults.here(
        seed=args.seed,
        workers=args.workers or len(os.sched_getaffinity(0)),
        seconds=_SMOKE_SECONDS if args.smoke else max(args.seconds, _SMOKE_SECONDS),
        smoke=args.smoke,
    )
    results = resumed(args, results, of="services")
    results.mixes |= {name: MIXES[name].what for name in args.mix}
    cases = [
        ServiceCase(mix, way, upstream, side, repetition)
        for repetition in range(1, (1 if args.smoke else args.repetitions) + 1)
        for mix in args.mix
        for way in args.way
        for upstream in args.upstream
        for side in (SIDES if args.compile else SIDES[:2])
    ]
    lines = RowLines(args.output)
    groups = list(dict.fromkeys((case.repetition, case.mix, case.way) for case in cases))

    def on_progress(case: ServiceCase, stage: str, share: float) -> None:
        number = groups.index((case.repetition, case.mix, case.way)) + 1
        what = f"{case.mix}, {case.way}, repetition {case.repetition}"
        lines.progress(f"{number} of {len(groups)}: {what}: {stage}, {share:.0%}")

    def measure(path: Path | None) -> None:
        run_service_session(
            cases,
            results,
            path=path,
            rates=args.rates,
            on_progress=on_progress,
            on_row=lambda row: lines.add(row_text(row)),
        )

    if not run_to_its_end(measure, results, args.output):
        return INTERRUPTED
    lines.add(how_to_see(results, args.output))
    return 1 if any(row.error or row.results_equal is False for row in results.rows) else 0


def _rates(text: str) -> tuple[float, ...]:
    rates = tuple(time_limit(rate) for rate in names(text))
    if not all(0 < rate <= _MAX_RATE for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r:.60} must be numbers above 0, at most {_MAX_RATE:g}")
    return rates
