"""Say what grew from one plan, trace or program to another, by who asked for it.

A program is run and recorded, with its arguments in the same quotation marks, or with those after `--` for both.
A trace is planned on the fly. Plans alone do not know who asked: their buffers are told apart by size. Of two memory
snapshots also what was reserved, and how much of it was fragmentation.

examples:
  memomalloc diff before.jsonl.gz after.jsonl.gz
  memomalloc diff before.jsonl.gz after.jsonl.gz --by module --json
  memomalloc diff before.pickle after.pickle --by source
  memomalloc diff "inference.py --batch 1" "inference.py --batch 4"
  memomalloc diff before.jsonl.gz inference.py -- --batch 4
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import whole
from memomalloc.cli.subjects import program_of
from memomalloc.extras import require

if TYPE_CHECKING:
    from memomalloc.report.difference import Difference

HELP = "say what grew from one plan, trace or program to another"

#: `report.difference.DIFFERENCE_BY`, without importing it for ``--help``; a test holds them equal.
BY_CHOICES = ("origin", "module", "operator", "source", "role", "thread")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "before",
        type=program_of,
        metavar="BEFORE",
        help="a trace, a plan, a .csv, a snapshot or a .py program; - is standard input",
    )
    parser.add_argument("after", type=program_of, metavar="AFTER", help="another one")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENTS", help="of programs that have none of their own")
    parser.add_argument("--by", choices=BY_CHOICES, default="origin", help="what tells buffers apart (default: origin)")
    parser.add_argument("--planner", default="auto", metavar="NAME", help="plans a trace (default: auto)")
    parser.add_argument("--memory", metavar="ID", help="of snapshots, such as 0 or 0:1.0 (default: the largest)")
    parser.add_argument("--top", type=whole(), default=20, metavar="N", help="rows of the table (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare, print.

    Returns:
        0, whether anything changed or not; whatever goes wrong is raised.
    """
    if not args.json:
        require("rich", extra="cli", feature="memomalloc diff")
    found = _difference(args)
    if args.json:
        print(json.dumps(found.as_json()))
        return 0
    from memomalloc.report.difference_table import difference_table
    from memomalloc.report.terminal import console_for_tables

    console_for_tables().print(difference_table(found, top=args.top))
    return 0


def _difference(args: argparse.Namespace) -> Difference:
    from memomalloc.cli.subjects import chosen_memory, placements_of, read_subject
    from memomalloc.data.snapshot import Snapshot
    from memomalloc.errors import OptionError
    from memomalloc.report.difference import difference
    from memomalloc.report.snapshot_difference import snapshot_difference

    inputs = (args.before, args.after)
    subjects = [read_subject(path, script_arguments=own or args.arguments) for path, own in inputs]
    snapshots = [subject for subject in subjects if isinstance(subject, Snapshot)]
    if len(snapshots) == 2:
        return snapshot_difference(*(chosen_memory(snapshot, args.memory) for snapshot in snapshots), by=args.by)
    if snapshots or args.memory is not None:
        raise OptionError("a snapshot, and --memory, can only be compared with another snapshot")
    before, after = (
        placements_of(subject, what=path.name, planners=[args.planner])[0]
        for (path, _), subject in zip(inputs, subjects, strict=True)
        if not isinstance(subject, Snapshot)
    )
    return difference(before, after, args.by)
