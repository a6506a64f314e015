"""Check a plan file, for continuous integration: that it is whole and valid, and that its arena is not too large.

The exit status is 0 if all is well, 1 if the arena is larger than allowed, 2 if the file is not a valid plan.

examples:
  memomalloc check plan.json
  memomalloc check plan.json --max-bytes 64MiB
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from memomalloc.cli.option_types import byte_count, input_file, named
from memomalloc.data.byte_text import byte_text

HELP = "check a plan file and the size of its arena"

TOO_LARGE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("plan", type=input_file, metavar="PLAN", help="a plan file; - is standard input")
    parser.add_argument(
        "--max-bytes", type=byte_count, metavar="N", help="the largest arena that will do, such as 64MiB or 4096"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check, print.

    Returns:
        0 if the plan is valid and its arena small enough, 1 if the arena is too large.
    """
    from memomalloc.data.plan_file import read_plan
    from memomalloc.data.problem import MAX_TOTAL_BYTES

    # How large an arena may be is what --max-bytes says: nothing is mapped here.
    plan = read_plan(args.plan, max_arena_bytes=MAX_TOTAL_BYTES)
    fits = args.max_bytes is None or plan.arena_bytes <= args.max_bytes
    if args.json:
        names = ("planner", "num_buffers", "arena_bytes", "lower_bound_bytes", "gap", "proven_optimal")
        result = {name: getattr(plan, name) for name in names}
        print(json.dumps({**result, "max_bytes": args.max_bytes, "fits": fits}))
    elif fits:
        print(
            f"{named(args.plan)}: valid; {plan.num_buffers} buffers in {byte_text(plan.arena_bytes)} "
            f"({plan.arena_bytes} bytes), {plan.gap:.2%} above the lower bound"
        )
    if not fits:
        remedy = _remedy(args.plan, plan.arena_bytes, plan.lower_bound_bytes, args.max_bytes)
        print(f"memomalloc: error: {remedy}", file=sys.stderr)
    return 0 if fits else TOO_LARGE


def _remedy(path: Path, arena_bytes: int, lower_bound_bytes: int, max_bytes: int) -> str:
    over = f"{named(path)}: the arena of {arena_bytes} bytes is {byte_text(arena_bytes - max_bytes)} above {max_bytes}"
    if lower_bound_bytes > max_bytes:
        return f"{over}; no plan can do it (lower bound {lower_bound_bytes}): see `memomalloc diff` for what grew"
    return f"{over}; the lower bound is {lower_bound_bytes}: plan with a larger --time-limit, or --capacity {max_bytes}"
