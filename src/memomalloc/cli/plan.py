"""Plan the memory of a file of buffers: offsets for sizes and lifetimes.

FILE is a CSV file of MiniMalloc (columns id, lower, upper, size, and optionally alignment and offset, a pin),
`-` for one on standard input, or a trace that memomalloc recorded. OUT gets the plan: as the same CSV with an
offset for every buffer, or as a plan file. Its sizes are those of the plan: rounded up to the alignment.

examples:
  memomalloc plan buffers.csv
  memomalloc plan buffers.csv --capacity 1048576 --time-limit 10 -o planned.csv
  generate | memomalloc plan - --json
  memomalloc plan trace.jsonl.gz --json -o plan.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memomalloc.data.plan import Plan
    from memomalloc.data.problem import Problem
    from memomalloc.data.trace import Trace

HELP = "plan the memory of a file of buffers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="buffers to plan: CSV, or a trace file")
    parser.add_argument("--planner", default="auto", metavar="NAME", help="see `memomalloc planners` (default: auto)")
    parser.add_argument(
        "--capacity", type=_bytes, metavar="BYTES", help="any plan within it will do; exit 3 if none is"
    )
    parser.add_argument(
        "--alignment", type=_alignment, metavar="N", help="in bytes (default: 1 for a CSV file, 64 for a trace)"
    )
    parser.add_argument(
        "--time-limit", type=seconds, default=1.0, metavar="S", help="seconds that a search may take (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random choices (default: 0)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write the plan: OUT.csv or OUT.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line for a person")


def run(args: argparse.Namespace) -> int:
    """Plan, print, write.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.cli.output_file import require_folder_of
    from memomalloc.data import Problem
    from memomalloc.data.minimalloc_csv import write_minimalloc_csv
    from memomalloc.errors import FileFormatError
    from memomalloc.planners import plan

    if args.output is not None and args.output.suffix.lower() not in (".csv", ".json"):
        raise FileFormatError(args.output, "a plan is written as .csv or .json: end the name in one of them")
    require_folder_of(args.output)
    subject = _read(args)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        planned = plan(
            subject,
            planner=args.planner,
            capacity_bytes=args.capacity,
            time_limit_s=args.time_limit,
            seed=args.seed,
        )
    for warning in caught:
        print(f"memomalloc: {warning.message}", file=sys.stderr)
    if args.output is not None and args.output.suffix.lower() == ".csv":
        # The problem as it was read has the ids of the file.
        problem = subject if isinstance(subject, Problem) else planned.problem
        write_minimalloc_csv(problem, args.output, planned.offsets)
    elif args.output is not None:
        planned.save(args.output)
    print(json.dumps(_summary(planned)) if args.json else _sentence(args.file, planned))
    return 0


def _read(args: argparse.Namespace) -> Trace | Problem:
    from memomalloc.data.minimalloc_csv import (
        looks_like_minimalloc_csv,
        parse_minimalloc_csv,
        read_minimalloc_csv,
    )
    from memomalloc.data.trace import Trace

    if str(args.file) == "-":
        content = sys.stdin.buffer.read()
        return parse_minimalloc_csv(content, "standard input", alignment_bytes=args.alignment or 1)
    if looks_like_minimalloc_csv(args.file):
        return read_minimalloc_csv(args.file, alignment_bytes=args.alignment or 1)
    trace = Trace.load(args.file)
    return trace if args.alignment in (None, 64) else trace.problem(args.alignment)


def _summary(planned: Plan) -> dict[str, object]:
    names = ("planner", "num_buffers", "arena_bytes", "lower_bound_bytes", "gap", "proven_optimal", "elapsed_s")
    return {name: getattr(planned, name) for name in names}


def _sentence(path: Path, planned: Plan) -> str:
    if planned.arena_bytes == planned.lower_bound_bytes:
        quality = "the lower bound"
    else:
        optimal = ", proven optimal" if planned.proven_optimal else ""
        quality = f"{planned.gap:.3%} above the lower bound of {planned.lower_bound_bytes}{optimal}"
    return (
        f"{path}: {planned.num_buffers} buffers in {planned.arena_bytes} bytes, {quality}; "
        f"{planned.planner}, {planned.elapsed_s:.3f} s"
    )


def _bytes(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of bytes") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _alignment(text: str) -> int:
    value = _bytes(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is no alignment: 1 takes any offset")
    return value


def seconds(text: str) -> float:
    """The type of an option that is a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
