"""List the planners: what each does, how long it takes, where it is from.

examples:
  memomalloc planners
  memomalloc planners --json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap

HELP = "list the planners"

_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print a JSON array instead")


def run(args: argparse.Namespace) -> int:
    """Print every registered planner.

    Returns:
        0.
    """
    from memomalloc.planners import available

    if args.json:
        print(json.dumps([dataclasses.asdict(planner) for planner in available()], indent=1))
        return 0
    for planner in available():
        kind = "exact" if planner.exact else "heuristic"
        extra = f"; pip install 'memomalloc[{planner.extra}]'" if planner.extra else ""
        print(f"{planner.name} ({kind}; {planner.complexity}{extra})")
        for line in textwrap.wrap(f"{planner.description} Source: {planner.source}.", _WIDTH - 4):
            print(f"    {line}")
    return 0
