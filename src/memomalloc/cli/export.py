"""Write a trace, or a memory of a GPU's snapshot, for other viewers and planners.

INPUT is a trace, a plan, a CSV file of MiniMalloc, a memory snapshot of a GPU, or a Python program, which is run and
recorded; its arguments follow after `--`.

snapshot: for https://pytorch.org/memory_viz (name it .pickle); chrome: for Perfetto and chrome://tracing (name it
.json); csv: for the planners that read MiniMalloc's files, with the offsets of the plan; trace: a trace file. A
snapshot is written with its real addresses where no plan is asked for.

examples:
  memomalloc export trace.jsonl.gz --to snapshot snapshot.pickle
  memomalloc export trace.jsonl.gz --to chrome trace.json
  memomalloc export trace.jsonl.gz --to csv buffers.csv --plan plan.json
  memomalloc export snapshot.pickle --to chrome trace.json
  memomalloc export snapshot.pickle --memory 0:1.0 --to trace pool.jsonl.gz
  memomalloc export inference.py --to chrome trace.json -- --batch 4
"""

from __future__ import annotations

import argparse

from memomalloc.cli.option_types import file_name, input_file, output_file
from memomalloc.cli.subjects import program_of

HELP = "write a trace for other viewers and planners"

FORMATS = ("snapshot", "chrome", "csv", "trace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "input",
        type=program_of,
        metavar="INPUT",
        help="a trace, a plan, a .csv, a snapshot or a .py program; - is standard input",
    )
    parser.add_argument("output", type=output_file, metavar="OUT", help="the file to write; - is standard output")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENTS", help="the program's own")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    parser.add_argument(
        "--plan", type=input_file, metavar="PLAN", help="where the buffers lie (default: planned on the fly)"
    )
    parser.add_argument("--memory", metavar="ID", help="of a snapshot, such as 0 or 0:1.0 (default: the largest)")


def run(args: argparse.Namespace) -> int:
    """Convert.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.cli.output_file import require_outputs, say_written
    from memomalloc.cli.subjects import chosen_memory, read_subject
    from memomalloc.data.minimalloc_csv import write_minimalloc_csv
    from memomalloc.data.plan import Plan
    from memomalloc.data.plan_file import read_plan
    from memomalloc.data.problem import MAX_TOTAL_BYTES, Problem
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.data.trace import Trace
    from memomalloc.errors import FileFormatError, OptionError
    from memomalloc.planners import plan
    from memomalloc.report.chrome_export import write_chrome_trace
    from memomalloc.report.placement import Placement
    from memomalloc.report.snapshot_export import write_snapshot

    path, own = args.input
    inputs = [path] if args.plan is None else [path, args.plan]
    require_outputs(args.output, inputs=inputs)
    subject = read_subject(path, script_arguments=own or args.arguments)
    memory = None
    to_plan: Trace | Plan | Problem
    if isinstance(subject, Snapshot):
        memory = chosen_memory(subject, args.memory)
        to_plan = memory.problem()
    elif args.memory is not None:
        raise OptionError("--memory is for snapshots: leave it out")
    else:
        to_plan = subject
    trace = subject if isinstance(subject, Trace) else None if memory is None else memory.trace
    if args.to == "trace":
        if trace is None:
            raise FileFormatError(path, "it does not say who asked for memory: a trace cannot be made of it")
        trace.save(args.output)
        say_written(args.output)
        return 0
    title = file_name(path)
    if memory is not None and args.plan is None and args.to != "csv":
        placement = Placement.of_addresses(memory.trace, memory.addresses, title=title)
    else:
        if args.plan is not None:
            planned = read_plan(args.plan, max_arena_bytes=MAX_TOTAL_BYTES)
        else:
            planned = to_plan if isinstance(to_plan, Plan) else plan(to_plan)
        placement = Placement.of_plan(planned, trace=trace, title=title)
    if args.to == "csv":
        write_minimalloc_csv(planned.problem, args.output, planned.offsets)
    else:
        (write_snapshot if args.to == "snapshot" else write_chrome_trace)(placement, args.output)
    say_written(args.output)
    return 0
