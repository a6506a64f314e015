"""Plan the memory of a file of buffers: offsets for sizes and lifetimes.

FILE is a CSV file of MiniMalloc (columns id, lower, upper, size, and optionally alignment and offset, a pin), a
trace that memomalloc recorded, or a memory snapshot of a GPU; `-` is standard input. OUT gets the plan: as the same
CSV with an offset for every buffer, or as a plan file; `-` is standard output, and gets CSV for CSV, else a plan
file. Its sizes are those of the plan: rounded up to the alignment.

FILE may be a problem file too, for the memories of a device, with capacities, costs, aliases and pairs that must not
overlap; see docs/file-formats.md. OUT.json gets a device plan file.

examples:
  memomalloc plan buffers.csv
  memomalloc plan buffers.csv --capacity 1048576 --time-limit 10 -o planned.csv
  generate | memomalloc plan - --json
  memomalloc plan trace.jsonl.gz --json -o plan.json
  memomalloc plan snapshot.pickle --period
  memomalloc plan problem.json -o plan.json
  memomalloc plan changed.json --warm-start plan.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import alignment, input_file, named, output_file, plain_bytes, seconds, whole
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.data.columns import INT64_MAX
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from memomalloc.data.device_plan import DevicePlan
    from memomalloc.data.device_problem import DeviceProblem
    from memomalloc.data.plan import Plan
    from memomalloc.data.problem import Problem
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.data.trace import Trace

HELP = "plan the memory of a file of buffers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", type=input_file, metavar="FILE", help="buffers to plan: CSV, a trace, a snapshot or a problem file"
    )
    parser.add_argument("--planner", default="auto", metavar="NAME", help="see `memomalloc planners` (default: auto)")
    parser.add_argument(
        "--capacity", type=plain_bytes, metavar="BYTES", help="any plan within it will do; exit 3 if none is"
    )
    parser.add_argument(
        "--alignment",
        type=alignment,
        metavar="N",
        help="in bytes (default: 1 for a CSV file, 64 for a trace, 512 for a snapshot)",
    )
    parser.add_argument(
        "--time-limit", type=seconds, default=1.0, metavar="S", help="seconds that a search may take (default: 1)"
    )
    parser.add_argument(
        "--seed", type=whole(-INT64_MAX), default=0, metavar="N", help="of the random choices (default: 0)"
    )
    parser.add_argument("--memory", metavar="ID", help="of a snapshot, such as 0 or 0:1.0 (default: the largest)")
    parser.add_argument(
        "--period", action="store_true", help="of a snapshot, plan one of the steps that repeat, not the whole history"
    )
    parser.add_argument(
        "--warm-start",
        type=input_file,
        metavar="PLAN",
        help="begin with an earlier plan of this problem or one like it",
    )
    parser.add_argument("-o", "--output", type=output_file, metavar="OUT", help="write the plan: OUT.csv or OUT.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line for a person")


def run(args: argparse.Namespace) -> int:
    """Plan, print, write.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.data import DeviceProblem, Problem
    from memomalloc.data.minimalloc_csv import write_minimalloc_csv
    from memomalloc.errors import FileFormatError
    from memomalloc.planners import plan

    suffix = None if args.output in (None, STANDARD_OUTPUT) else _suffix(args.output)
    if suffix not in (None, ".csv", ".json"):
        raise FileFormatError(args.output, "a plan is written as .csv or .json: end the name in one of them")
    require_outputs(args.output, inputs=[args.file], prints=args.json)
    subject = _read(args)
    if isinstance(subject, DeviceProblem):
        return _run_device(args, subject, suffix)
    with _warnings_told():
        planned = plan(
            subject,
            planner=args.planner,
            capacity_bytes=args.capacity,
            time_limit_s=args.time_limit,
            seed=args.seed,
            warm_start=None if args.warm_start is None else _warm_offsets(args.warm_start, subject),
        )
    if suffix == ".csv" or (args.output == STANDARD_OUTPUT and isinstance(subject, Problem)):
        # The problem as it was read has the ids of the file.
        problem = subject if isinstance(subject, Problem) else planned.problem
        write_minimalloc_csv(problem, args.output, planned.offsets)
    elif args.output is not None:
        planned.save(args.output)
    _say(json.dumps(summary(planned)) if args.json else _sentence(args.file, planned), args)
    return 0


def _run_device(args: argparse.Namespace, problem: DeviceProblem, suffix: str | None) -> int:
    from dataclasses import replace

    from memomalloc.data import DeviceProblem
    from memomalloc.data.device_files import read_places
    from memomalloc.errors import FileFormatError, OptionError
    from memomalloc.planners import plan_device

    if args.planner != "auto":
        raise OptionError("--planner: a problem for a device is planned by auto alone")
    if suffix == ".csv":
        raise FileFormatError(args.output, "a plan for a device is written as .json: end the name in it")
    if args.capacity is not None:
        if len(problem.memories) > 1:
            raise OptionError("--capacity: the problem file says what each of the memories has")
        problem = DeviceProblem.of(
            [replace(problem.memories[0], capacity_bytes=args.capacity)],
            problem.buffers,
            aliases=problem.aliases,
            disjoint=problem.disjoint,
            different_banks=problem.different_banks,
        )
    with _warnings_told():
        planned = plan_device(
            problem,
            time_limit_s=args.time_limit,
            seed=args.seed,
            warm_start=None if args.warm_start is None else read_places(args.warm_start),
        )
    if args.output is not None:
        planned.save(args.output)
    _say(json.dumps(device_summary(planned)) if args.json else _device_sentence(args.file, planned), args)
    return 0


def _say(text: str, args: argparse.Namespace) -> None:
    # Where the plan itself is printed, a person still wants to know how good it is.
    print(text, file=sys.stderr if args.output == STANDARD_OUTPUT else sys.stdout)


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Tell a person of warnings in the block when it has ended."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"memomalloc: {harmless(warning.message)}", file=sys.stderr)


def _warm_offsets(path: Path, subject: Trace | Problem) -> Plan | list[int]:
    """The offsets of an earlier plan: of buffers with the same ids where both have any, else in the same order."""
    from memomalloc.data import Plan, Problem
    from memomalloc.data.any_file import read_any
    from memomalloc.data.problem import MAX_TOTAL_BYTES
    from memomalloc.errors import FileFormatError

    earlier = read_any(path, max_arena_bytes=MAX_TOTAL_BYTES)
    if isinstance(earlier, Plan):
        return earlier
    if not isinstance(earlier, Problem) or earlier.pinned_offsets is None:
        raise FileFormatError(path, "an earlier plan was expected: a plan file, or a CSV file with offsets")
    offsets: dict[Hashable, int] = dict(
        zip(earlier.ids or range(len(earlier)), earlier.pinned_offsets.tolist(), strict=True)
    )
    names = subject.ids if isinstance(subject, Problem) else None
    return [offsets.get(name, -1) for name in names or range(len(subject))]


def _suffix(path: Path) -> str:
    """What a name ends in, but for a ``.gz`` that only compresses."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _read(args: argparse.Namespace) -> Trace | Problem | DeviceProblem:
    from memomalloc.cli.progress import reading_progress
    from memomalloc.data.any_file import read_to_plan
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.data.trace import Trace
    from memomalloc.errors import OptionError

    with reading_progress(args.file.name) as progress:
        subject = read_to_plan(args.file, alignment_bytes=args.alignment, progress=progress)
    if isinstance(subject, Snapshot):
        return _problem_of(subject, args)
    if args.memory is not None or args.period:
        raise OptionError("--memory and --period are for snapshots: leave them out")
    if isinstance(subject, Trace) and args.alignment not in (None, 64):
        return subject.problem(args.alignment)
    return subject


def _problem_of(snapshot: Snapshot, args: argparse.Namespace) -> Problem:
    from memomalloc.cli.subjects import chosen_memory
    from memomalloc.data.snapshot import ALIGNMENT_BYTES
    from memomalloc.report.snapshot_period import required_window

    memory = chosen_memory(snapshot, args.memory)
    alignment = ALIGNMENT_BYTES if args.alignment is None else args.alignment
    if args.period:
        return required_window(memory).problem(memory, alignment)[0]
    return memory.problem(alignment)


def summary(planned: Plan) -> dict[str, object]:
    """What ``--json`` prints of a plan."""
    names = ("planner", "num_buffers", "arena_bytes", "lower_bound_bytes", "gap", "proven_optimal", "elapsed_s")
    return {name: getattr(planned, name) for name in names}


def _sentence(path: Path, planned: Plan) -> str:
    if planned.arena_bytes == planned.lower_bound_bytes:
        quality = "the lower bound"
    else:
        optimal = ", proven optimal" if planned.proven_optimal else ""
        quality = f"{planned.gap:.3%} above the lower bound of {planned.lower_bound_bytes}{optimal}"
    return (
        f"{named(path)}: {planned.num_buffers} buffers in {planned.arena_bytes} bytes, {quality}; "
        f"{planned.planner}, {planned.elapsed_s:.3f} s"
    )


def device_summary(planned: DevicePlan) -> dict[str, object]:
    """What ``--json`` prints of a plan for a device."""
    names = ("cost", "lower_bound_cost", "arena_bytes", "proven_cheapest", "proven_optimal", "elapsed_s")
    return {"num_buffers": len(planned), **{name: getattr(planned, name) for name in names}}


def _device_sentence(path: Path, planned: DevicePlan) -> str:
    memories = []
    for memory in planned.problem.memories:
        of_capacity = "" if memory.capacity_bytes is None else f" of {memory.capacity_bytes}"
        memories.append(f"{planned.arena_bytes[memory.name]}{of_capacity} bytes of {harmless(memory.name)}")
    if planned.proven_optimal:
        quality = "proven optimal"
    elif planned.proven_cheapest:
        quality = "proven cheapest"
    else:
        quality = f"at least {planned.lower_bound_cost}"
    return (
        f"{named(path)}: {len(planned)} buffers in {', '.join(memories)}; "
        f"cost {planned.cost}, {quality}; {planned.elapsed_s:.3f} s"
    )
