"""Compare memomalloc with what else there is.

examples:
  memomalloc bench models --suite demo --upstream glibc,jemalloc --output results.json
  memomalloc bench report results.json
  memomalloc bench planners buffers.csv --time-limit 10 --markdown table.md
"""

from __future__ import annotations

import argparse
import importlib

HELP = "compare with what else there is"

#: Names of sub-commands; each is a module of this folder, ``bench_`` before its name.
SUBJECTS = ("models", "memory", "service", "planners", "executorch", "report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    subjects = parser.add_subparsers(title="what to compare", required=True, metavar="subject")
    for name in SUBJECTS:
        module = importlib.import_module(f"memomalloc.cli.bench_{name}")
        added = subjects.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(added)
        added.set_defaults(compare=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    return int(args.compare(args))
