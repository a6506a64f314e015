"""Which allocators something is measured over. No command of its own."""

from __future__ import annotations

import argparse

from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.cli.option_types import some_of


def add_upstream(parser: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    """Declare ``--upstream``; its value are names."""
    names = tuple(UPSTREAMS)
    parser.add_argument(
        "--upstream",
        metavar="NAMES",
        type=some_of(names),
        default=default,
        help=f"of {', '.join(names)} (default: {','.join(default)})",
    )
