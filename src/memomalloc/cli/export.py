"""Write a trace, or a memory of a GPU's snapshot, for other viewers and planners.

snapshot: for https://pytorch.org/memory_viz (name it .pickle); chrome: for Perfetto and chrome://tracing (name it
.json); csv: for the planners that read MiniMalloc's files, with the offsets of the plan; trace: a trace file. A
snapshot is written with its real addresses where no plan is asked for.

examples:
  memomalloc export trace.jsonl.gz --to snapshot snapshot.pickle
  memomalloc export trace.jsonl.gz --to chrome trace.json
  memomalloc export trace.jsonl.gz --to csv buffers.csv --plan plan.json
  memomalloc export snapshot.pickle --to chrome trace.json
  memomalloc export snapshot.pickle --memory 0:1.0 --to trace pool.jsonl.gz
"""

from __future__ import annotations

import argparse

from memomalloc.cli.option_types import input_file, named, output_file

HELP = "write a trace for other viewers and planners"

FORMATS = ("snapshot", "chrome", "csv", "trace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "trace", type=input_file, metavar="TRACE", help="a trace file or a snapshot; - is standard input"
    )
    parser.add_argument("output", type=output_file, metavar="OUT", help="the file to write; - is standard output")
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
    from memomalloc.cli.progress import reading_progress
    from memomalloc.cli.subjects import chosen_memory
    from memomalloc.data.any_file import read_trace_or_snapshot
    from memomalloc.data.minimalloc_csv import write_minimalloc_csv
    from memomalloc.data.plan_file import read_plan
    from memomalloc.data.problem import MAX_TOTAL_BYTES
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.errors import OptionError
    from memomalloc.planners import plan
    from memomalloc.report.chrome_export import write_chrome_trace
    from memomalloc.report.placement import Placement
    from memomalloc.report.snapshot_export import write_snapshot

    inputs = [args.trace] if args.plan is None else [args.trace, args.plan]
    require_outputs(args.output, inputs=inputs)
    with reading_progress(args.trace.name) as progress:
        subject = read_trace_or_snapshot(args.trace, progress=progress)
    memory = None
    if isinstance(subject, Snapshot):
        memory = chosen_memory(subject, args.memory)
        trace = memory.trace
    elif args.memory is None:
        trace = subject
    else:
        raise OptionError("--memory is for snapshots: leave it out")
    if args.to == "trace":
        trace.save(args.output)
        say_written(args.output)
        return 0
    title = named(args.trace).rpartition("/")[2]
    if memory is not None and args.plan is None and args.to != "csv":
        placement = Placement.of_addresses(trace, memory.addresses, title=title)
    else:
        to_plan = trace if memory is None else memory.problem()
        planned = plan(to_plan) if args.plan is None else read_plan(args.plan, max_arena_bytes=MAX_TOTAL_BYTES)
        placement = Placement.of_plan(planned, trace=trace, title=title)
    if args.to == "csv":
        write_minimalloc_csv(planned.problem, args.output, planned.offsets)
    else:
        (write_snapshot if args.to == "snapshot" else write_chrome_trace)(placement, args.output)
    say_written(args.output)
    return 0
