"""Show memory: who asked for which buffer, when it lived, and where it lies.

INPUT is a trace, a plan, a CSV file of MiniMalloc, a memory snapshot of a GPU (torch.cuda.memory._dump_snapshot), or a
Python program, which is run and recorded from its first line to its last, or until Ctrl-C; `-` is standard input. A
trace is planned on the fly. Two inputs, or two planners, are shown side by side. Without an option that says how, a
table is printed. A FILE that is `-` is standard output.

examples:
  memomalloc show trace.jsonl.gz --html map.html
  memomalloc show trace.jsonl.gz --planner auto --planner linear_scan --html map.html
  memomalloc show before.json after.json --png both.png
  memomalloc show plan.json --trace trace.jsonl.gz --table
  memomalloc show --html map.html inference.py -- --batch 4
  memomalloc show snapshot.pickle
  memomalloc show snapshot.pickle --memory 0:1.0 --html map.html
  memomalloc show snapshot.pickle --period --html step.html
  memomalloc show --save recorded.jsonl.gz inference.py -- --batch 4
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import file_name, input_file, named, output_file, time_limit, whole
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.data.plan import Plan
    from memomalloc.data.problem import Problem
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.data.trace import Trace
    from memomalloc.report.placement import Placement

HELP = "show who uses the memory: a map in HTML, a picture, a table"

#: `report.groups.BY`, without importing it for ``--help``; a test holds them equal.
BY_CHOICES = ("module", "operator", "source", "role", "thread", "size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "input", type=input_file, metavar="INPUT", help="a trace, a plan, a .csv, a snapshot or a .py program"
    )
    parser.add_argument("more", nargs="*", metavar="MORE", help="another INPUT beside it, or the program's arguments")
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write the memory map: one file, works offline"
    )
    parser.add_argument(
        "--png", type=output_file, metavar="FILE", help="write a picture (also .svg, .pdf; needs matplotlib)"
    )
    parser.add_argument("--table", action="store_true", help="print tables (needs rich)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", type=output_file, metavar="TRACE", help="keep the trace of a program that is run")
    parser.add_argument("--trace", type=input_file, metavar="FILE", help="what a plan was made from: tells who asked")
    parser.add_argument(
        "--planner", action="append", metavar="NAME", help="plans a trace; may be given more than once (default: auto)"
    )
    parser.add_argument(
        "--time-limit", type=time_limit, default=1.0, metavar="S", help="seconds that a planner may search (default: 1)"
    )
    parser.add_argument(
        "--memory", metavar="ID", help="of a snapshot, such as 0 or 0:1.0 (default: all; map: the largest)"
    )
    parser.add_argument("--period", action="store_true", help="of a snapshot, draw one of the steps that repeat")
    parser.add_argument("--by", choices=BY_CHOICES, help="what colours map and picture (default: module, else size)")
    parser.add_argument(
        "--depth", type=whole(1, 1000), metavar="N", help="parts of module paths that count (default: fitting)"
    )
    parser.add_argument("--top", type=whole(), default=12, metavar="N", help="rows of each table (default: 12)")


def run(args: argparse.Namespace) -> int:
    """Show.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.cli.output_file import require_outputs, say_written
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.errors import OptionError

    if args.table:
        require("rich", extra="cli", feature="memomalloc show --table")
    if args.png is not None:
        require("matplotlib", extra="plot", feature="memomalloc show --png")
        _check_suffix(args.png)
    inputs = [*_files(args), *([] if args.trace is None else [args.trace])]
    shows_table = not args.json and (args.table or (args.html is None and args.png is None))
    require_outputs(args.html, args.png, args.save, inputs=inputs, prints=args.json or shows_table)
    subjects = _subjects(args)
    snapshots = [subject for subject in subjects if isinstance(subject, Snapshot)]
    if (args.memory is not None or args.period) and not snapshots:
        raise OptionError("--memory and --period are for snapshots: leave them out")
    draws = args.html is not None or args.png is not None
    if args.period and not draws:
        raise OptionError("--period draws one step: say where with --html or --png; the tables have it anyway")
    has_accounts = len(snapshots) == len(subjects)
    if has_accounts and (args.json or shows_table):
        _print_accounts(snapshots, args)
    if has_accounts and not draws:
        return 0
    placements = _placements(subjects, args)
    title = " and ".join(file_name(path) for path in _files(args))
    if args.html is not None:
        from memomalloc.report.html_page import write_page

        write_page(placements, args.html, title=title, by=args.by)
    if args.png is not None:
        from memomalloc.report.picture import save_picture

        save_picture(placements, args.png, by=args.by, depth=args.depth)
    if args.json and not has_accounts:
        from memomalloc.report.summary import summary

        print(json.dumps({"placements": [summary(placement, depth=args.depth) for placement in placements]}))
    elif shows_table and not has_accounts:
        _print_tables(placements, args)
    for path in (args.html, args.png, args.save):
        say_written(path, quiet=args.json or STANDARD_OUTPUT in (args.html, args.png, args.save))
    return 0


def _check_suffix(path: Path) -> None:
    from memomalloc.errors import FileFormatError
    from memomalloc.report.picture import SUFFIXES

    if path != STANDARD_OUTPUT and path.suffix.lower() not in SUFFIXES:
        raise FileFormatError(
            path, f"a picture is written as one of {', '.join(SUFFIXES)}: end the name in one of them"
        )


def _files(args: argparse.Namespace) -> list[Path]:
    return [args.input] if args.input.suffix == ".py" else [args.input, *map(input_file, args.more)]


def _subjects(args: argparse.Namespace) -> list[Trace | Plan | Problem | Snapshot]:
    from memomalloc.cli.subjects import read_subject
    from memomalloc.data.trace import Trace
    from memomalloc.errors import InvalidPlanError

    files = _files(args)
    if len(files) > 2:
        raise InvalidPlanError(f"{len(files)} inputs cannot be shown side by side: name one or two")
    if args.save is not None and args.input.suffix != ".py":
        raise InvalidPlanError("--save keeps the trace of a program: name a .py file")
    subjects = [read_subject(path, script_arguments=args.more) for path in files]
    if args.save is not None:
        for subject in subjects:
            if isinstance(subject, Trace):
                subject.save(args.save)  # before it is planned
    return subjects


def _placements(subjects: list[Trace | Plan | Problem | Snapshot], args: argparse.Namespace) -> list[Placement]:
    from memomalloc.cli.subjects import placements_of
    from memomalloc.data.snapshot import Snapshot

    found = []
    for path, subject in zip(_files(args), subjects, strict=True):
        title = file_name(path) if len(subjects) > 1 else None
        if isinstance(subject, Snapshot):
            found += _placements_of_memory(subject, title, args)
        else:
            found += placements_of(
                subject,
                what=path.name,
                trace_path=args.trace,
                planners=args.planner or ["auto"],
                time_limit_s=args.time_limit,
                title=title,
            )
    return found


def _placements_of_memory(snapshot: Snapshot, title: str | None, args: argparse.Namespace) -> list[Placement]:
    """Where the buffers lay; alone, also where a plan puts them."""
    from memomalloc.cli.progress import planning_progress
    from memomalloc.cli.subjects import chosen_memory
    from memomalloc.planners import plan
    from memomalloc.report.snapshot_map import MAX_RECTANGLES, placements_of_memory
    from memomalloc.report.snapshot_period import required_window

    memory = chosen_memory(snapshot, args.memory)
    if args.period:
        window = required_window(memory)
        memory = memory.between(window.start_tick, window.end_tick)
    elif len(memory) > MAX_RECTANGLES:
        print(
            "memomalloc: more buffers than can be drawn one by one: --period draws a step that repeats", file=sys.stderr
        )
    if title is not None:
        return placements_of_memory(memory, None, annotations=snapshot.annotations, title=title)
    planner = (args.planner or ["auto"])[0]
    with planning_progress(memory.name) as progress:
        planned = plan(memory.problem(), planner=planner, time_limit_s=args.time_limit, progress=progress)
    return placements_of_memory(memory, planned, annotations=snapshot.annotations)


def _print_accounts(snapshots: list[Snapshot], args: argparse.Namespace) -> None:
    from memomalloc.cli.subjects import chosen_memories
    from memomalloc.report.snapshot_account import accounts_of, snapshot_summary

    accounts = [
        accounts_of(snapshot, chosen_memories(snapshot, args.memory), time_limit_s=args.time_limit)
        for snapshot in snapshots
    ]
    if args.json:
        summaries = [snapshot_summary(*pair) for pair in zip(snapshots, accounts, strict=True)]
        print(json.dumps({"snapshots": summaries}))
        return
    require("rich", extra="cli", feature="memomalloc show --table")
    from memomalloc.report.snapshot_table import account_table
    from memomalloc.report.terminal import console_for_tables

    console = console_for_tables()
    for i, (snapshot, of_snapshot) in enumerate(zip(snapshots, accounts, strict=True)):
        events = f"{snapshot.num_events:,} events, {len(snapshot.annotations):,} annotations"
        console.print(f"{named(snapshot.path)}: {events}", markup=False)
        for account in of_snapshot:
            console.print()
            console.print(account_table(account, top=args.top))
        if i + 1 < len(snapshots):
            console.print()


def _print_tables(placements: list[Placement], args: argparse.Namespace) -> None:
    require("rich", extra="cli", feature="memomalloc show --table")
    from memomalloc.report.summary_table import summary_table
    from memomalloc.report.terminal import console_for_tables

    console = console_for_tables()
    for placement in placements:
        console.print(summary_table(placement, depth=args.depth, top=args.top))
