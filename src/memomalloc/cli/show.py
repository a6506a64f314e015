"""Show memory: who asked for which buffer, when it lived, and where it lies.

INPUT is a trace, a plan, a CSV file of MiniMalloc, or a Python program, which is run and recorded from its first line
to its last, or until Ctrl-C; `-` is standard input. A trace is planned on the fly. Two inputs, or two planners, are
shown side by side. Without an option that says how, a table is printed. A FILE that is `-` is standard output.

examples:
  memomalloc show trace.jsonl.gz --html map.html
  memomalloc show trace.jsonl.gz --planner auto --planner linear_scan --html map.html
  memomalloc show before.json after.json --png both.png
  memomalloc show plan.json --trace trace.jsonl.gz --table
  memomalloc show --html map.html inference.py -- --batch 4
  memomalloc show --save recorded.jsonl.gz inference.py -- --batch 4
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import input_file, named, output_file, time_limit, whole
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.data.input_file import STANDARD_INPUT
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.report.placement import Placement

HELP = "show who uses the memory: a map in HTML, a picture, a table"

#: `report.groups.BY`, without importing it for ``--help``; a test holds them equal.
BY_CHOICES = ("module", "operator", "source", "role", "thread", "size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", type=input_file, metavar="INPUT", help="a trace, a plan, a .csv or a .py program")
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

    if args.table:
        require("rich", extra="cli", feature="memomalloc show --table")
    if args.png is not None:
        require("matplotlib", extra="plot", feature="memomalloc show --png")
        _check_suffix(args.png)
    inputs = [*_files(args), *([] if args.trace is None else [args.trace])]
    shows_table = not args.json and (args.table or (args.html is None and args.png is None))
    require_outputs(args.html, args.png, args.save, inputs=inputs, prints=args.json or shows_table)
    placements = _placements(args)
    title = " and ".join(_title(path) for path in _files(args))
    if args.html is not None:
        from memomalloc.report.html_page import write_page

        write_page(placements, args.html, title=title, by=args.by)
    if args.png is not None:
        from memomalloc.report.picture import save_picture

        save_picture(placements, args.png, by=args.by, depth=args.depth)
    if args.json:
        from memomalloc.report.summary import summary

        print(json.dumps({"placements": [summary(placement, depth=args.depth) for placement in placements]}))
    elif shows_table:
        _print_tables(placements, args)
    for path in (args.html, args.png, args.save):
        say_written(path, quiet=args.json or STANDARD_OUTPUT in (args.html, args.png, args.save))
    return 0


def _title(path: Path) -> str:
    return named(path) if path == STANDARD_INPUT else path.name


def _check_suffix(path: Path) -> None:
    from memomalloc.errors import FileFormatError
    from memomalloc.report.picture import SUFFIXES

    if path != STANDARD_OUTPUT and path.suffix.lower() not in SUFFIXES:
        raise FileFormatError(
            path, f"a picture is written as one of {', '.join(SUFFIXES)}: end the name in one of them"
        )


def _files(args: argparse.Namespace) -> list[Path]:
    return [args.input] if args.input.suffix == ".py" else [args.input, *map(input_file, args.more)]


def _placements(args: argparse.Namespace) -> list[Placement]:
    from memomalloc.cli.subjects import placements_of
    from memomalloc.data.trace import Trace
    from memomalloc.errors import InvalidPlanError

    files = _files(args)
    if len(files) > 2:
        raise InvalidPlanError(f"{len(files)} inputs cannot be shown side by side: name one or two")
    if args.save is not None and args.input.suffix != ".py":
        raise InvalidPlanError("--save keeps the trace of a program: name a .py file")

    def keep(subject: object) -> None:
        if args.save is not None and isinstance(subject, Trace):
            subject.save(args.save)

    return [
        placement
        for path in files
        for placement in placements_of(
            path,
            script_arguments=args.more,
            trace_path=args.trace,
            planners=args.planner or ["auto"],
            time_limit_s=args.time_limit,
            title=_title(path) if len(files) > 1 else None,
            on_read=keep,
        )
    ]


def _print_tables(placements: list[Placement], args: argparse.Namespace) -> None:
    require("rich", extra="cli", feature="memomalloc show --table")
    from memomalloc.report.summary_table import summary_table
    from memomalloc.report.terminal import console_for_tables

    console = console_for_tables()
    for placement in placements:
        console.print(summary_table(placement, depth=args.depth, top=args.top))
