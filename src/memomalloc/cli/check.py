"""Check a plan or a memory snapshot, for continuous integration: that it is whole and valid, and not too large.

Of a plan the arena counts, of a snapshot of a GPU the most that was reserved in any of its memories, or in one. That
live buffers do not overlap is checked for both. With PROBLEM, which `memomalloc plan` reads, it is also checked that
the plan is one of that problem; then PLAN may be a CSV file with offsets or a device plan file too. The check shares
no code with the planners.

The exit status is 0 if all is well, 1 if there is more than allowed, 2 if the file is not valid.

examples:
  memomalloc check plan.json
  memomalloc check plan.json --max-bytes 64MiB
  memomalloc check snapshot.pickle --max-bytes 20GiB
  memomalloc check problem.json device_plan.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memomalloc.cli.option_types import alignment, byte_count, input_file, named
from memomalloc.data.byte_text import byte_text
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.data.device_problem import DeviceProblem
    from memomalloc.data.problem import Problem
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.data.trace import Trace

HELP = "check a plan or a snapshot, and how much it takes"

TOO_LARGE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("problem", type=input_file, nargs="?", metavar="PROBLEM", help="what it is to be a plan of")
    parser.add_argument("plan", type=input_file, metavar="PLAN", help="a plan file or a snapshot; - is standard input")
    parser.add_argument(
        "--max-bytes", type=byte_count, metavar="N", help="the most that will do, such as 64MiB or 4096"
    )
    parser.add_argument(
        "--alignment",
        type=alignment,
        metavar="N",
        help="that PROBLEM was planned with, in bytes (default: 1 for a CSV file, 64 for a trace)",
    )
    parser.add_argument("--memory", metavar="ID", help="of a snapshot, such as 0 or 0:1.0 (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check, print.

    Returns:
        0 if the plan is valid and its arena small enough, 1 if the arena is too large.
    """
    from memomalloc.cli.progress import reading_progress
    from memomalloc.data.any_file import read_plan_or_snapshot
    from memomalloc.data.problem import MAX_TOTAL_BYTES
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.errors import OptionError

    if args.problem is not None:
        if args.memory is not None:
            raise OptionError("--memory is for snapshots: leave it out")
        return _check_plan_of(args)
    if args.alignment is not None:
        raise OptionError("--alignment is of a PROBLEM: name it before the plan")
    with reading_progress(args.plan.name) as progress:
        # How large an arena may be is what --max-bytes says: nothing is mapped here.
        plan = read_plan_or_snapshot(args.plan, max_arena_bytes=MAX_TOTAL_BYTES, progress=progress)
    if isinstance(plan, Snapshot):
        return _check_snapshot(plan, args)
    if args.memory is not None:
        raise OptionError("--memory is for snapshots: leave it out")
    names = ("planner", "num_buffers", "arena_bytes", "lower_bound_bytes", "gap", "proven_optimal")
    return _answer(
        args,
        plan.arena_bytes,
        {name: getattr(plan, name) for name in names},
        valid=f"{plan.num_buffers} buffers in {byte_text(plan.arena_bytes)} ({plan.arena_bytes} bytes), "
        f"{plan.gap:.2%} above the lower bound",
        too_large=_remedy(plan.arena_bytes, plan.lower_bound_bytes),
    )


def _check_snapshot(snapshot: Snapshot, args: argparse.Namespace) -> int:
    from memomalloc.cli.subjects import chosen_memories
    from memomalloc.report.snapshot_account import account_of
    from memomalloc.report.snapshot_map import require_no_overlap

    rows = []
    for memory in chosen_memories(snapshot, args.memory):
        require_no_overlap(memory, snapshot.path)
        account = account_of(memory, with_period=False)
        row = {"memory": memory.id, "name": memory.name, "num_buffers": account.num_buffers}
        row |= {
            "peak_allocated_bytes": account.peak.allocated_bytes,
            "peak_reserved_bytes": account.peak_reserved_bytes,
        }
        row |= {"lower_bound_bytes": account.lower_bound_bytes, "oddities": account.oddities}
        fits = args.max_bytes is None or account.peak_reserved_bytes <= args.max_bytes
        rows.append(row | {"fits": fits})
        if not args.json and fits:
            odd = "".join(f", {count} {name.replace('_', ' ')}" for name, count in account.oddities.items())
            print(
                f"{named(snapshot.path)}, {memory.name}: valid; {account.num_buffers} buffers, "
                f"{byte_text(account.peak_reserved_bytes)} reserved for {byte_text(account.peak.allocated_bytes)}{odd}"
            )
        if not fits:
            over = byte_text(account.peak_reserved_bytes - args.max_bytes)
            print(
                f"memomalloc: error: {named(snapshot.path)}, {memory.name}: the {account.peak_reserved_bytes} "
                f"reserved bytes are {over} above {args.max_bytes}; `memomalloc show` says who has them",
                file=sys.stderr,
            )
    fits = all(row["fits"] for row in rows)
    if args.json:
        print(json.dumps({"memories": rows, "max_bytes": args.max_bytes, "fits": fits}))
    return 0 if fits else TOO_LARGE


def _check_plan_of(args: argparse.Namespace) -> int:
    from memomalloc.data.any_file import read_problem
    from memomalloc.data.device_problem import DeviceProblem

    problem = read_problem(args.problem, alignment_bytes=args.alignment)
    return _check_device(args, problem) if isinstance(problem, DeviceProblem) else _check_offsets(args, problem)


def _check_device(args: argparse.Namespace, problem: DeviceProblem) -> int:
    from memomalloc.data.device_plan import DevicePlan

    plan = DevicePlan.load(args.plan, problem)
    largest = max(plan.arena_bytes.values())
    needed = ", ".join(f"{size} bytes of {harmless(name)}" for name, size in plan.arena_bytes.items())
    return _answer(
        args,
        largest,
        {name: getattr(plan, name) for name in ("cost", "arena_bytes", "proven_cheapest", "proven_optimal")},
        valid=f"{len(plan)} buffers in {needed}, cost {plan.cost}",
        too_large=lambda max_bytes: f"{largest} bytes of a memory are more than {max_bytes}",
    )


def _check_offsets(args: argparse.Namespace, subject: Trace | Problem) -> int:
    import numpy as np

    from memomalloc.data import Plan, Problem, Trace, check
    from memomalloc.data.any_file import read_any
    from memomalloc.data.problem import MAX_TOTAL_BYTES
    from memomalloc.errors import FileFormatError, InvalidPlanError

    found = read_any(args.plan, max_arena_bytes=MAX_TOTAL_BYTES)
    offsets = found.offsets if isinstance(found, Plan) else found.pinned_offsets if isinstance(found, Problem) else None
    if offsets is None:
        raise FileFormatError(args.plan, "no plan: a plan file, or a CSV file with offsets was expected")
    if isinstance(subject, Trace):
        problem = subject.problem() if args.alignment is None else subject.problem(args.alignment)
    else:
        problem = subject
    if isinstance(found, Problem) and list(problem.ids or range(len(problem))) != list(found.ids or range(len(found))):
        raise FileFormatError(args.plan, "its buffers are not those of the problem, in the same order")
    try:
        check(problem, offsets)
    except InvalidPlanError as error:
        raise FileFormatError(args.plan, f"not a plan of this problem: {error}") from error
    arena = int(np.max((offsets + problem.sizes)[problem.sizes > 0], initial=0))
    bound = problem.lower_bound_bytes
    return _answer(
        args,
        arena,
        {"num_buffers": len(problem), "arena_bytes": arena, "lower_bound_bytes": bound},
        valid=f"{len(problem)} buffers in {arena} bytes",
        too_large=_remedy(arena, bound),
    )


def _remedy(arena_bytes: int, lower_bound_bytes: int) -> Callable[[int], str]:
    def remedy(max_bytes: int) -> str:
        over = f"the arena of {arena_bytes} bytes is {byte_text(arena_bytes - max_bytes)} above {max_bytes}"
        if lower_bound_bytes > max_bytes:
            return f"{over}; no plan can do it (lower bound {lower_bound_bytes}): see `memomalloc diff` for what grew"
        how = f"plan with a larger --time-limit, or --capacity {max_bytes}"
        return f"{over}; the lower bound is {lower_bound_bytes}: {how}"

    return remedy


def _answer(
    args: argparse.Namespace, num_bytes: int, result: dict[str, Any], *, valid: str, too_large: Callable[[int], str]
) -> int:
    """Say that a plan is valid, or that its bytes are more than allowed; the exit status."""
    fits = args.max_bytes is None or num_bytes <= args.max_bytes
    if args.json:
        print(json.dumps({**result, "max_bytes": args.max_bytes, "fits": fits}))
    elif fits:
        print(f"{named(args.plan)}: valid; {valid}")
    if not fits:
        print(f"memomalloc: error: {named(args.plan)}: {too_large(args.max_bytes)}", file=sys.stderr)
    return 0 if fits else TOO_LARGE
