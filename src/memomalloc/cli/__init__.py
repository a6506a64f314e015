"""The command line: one file per command, each thin.

A command is a module with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args)``, which gives the exit
status. It imports what it needs when it runs, so that ``memomalloc --help`` needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from memomalloc.errors import CapacityError, MemomallocError

#: Commands in the order in which ``--help`` lists them; the name of the module is that of the command.
COMMANDS = (
    "run",
    "plan",
    "planners",
    "compiler",
    "bench",
    "demo",
    "doctor",
    "show",
    "diff",
    "check",
    "export",
    "completion",
)

WRONG_INPUT = 2
NO_PLAN = 3
#: What a shell expects of a program that was ended by Ctrl-C.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line, without the program; None: those of this process.

    Returns:
        The exit status: 0 done, 1 not done, 2 wrong usage or input, 3 no plan within the capacity, 130 interrupted.
        The reason is on stderr.
    """
    args = make_parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("memomalloc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemomallocError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"memomalloc: error: {_one_line(error)}", file=sys.stderr)
        return NO_PLAN if isinstance(error, CapacityError) else WRONG_INPUT


def _one_line(error: Exception) -> str:
    """What an error says; those of the system without their number, which tells a person nothing."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    """A parser, and one for each command, whose errors are one line as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"memomalloc: error: {message}; see `{self.prog} --help`\n")


class _Version(argparse.Action):
    """Reads the version only when asked: importing the package for it would be felt by every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from memomalloc import __version__

        print(f"memomalloc {__version__}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = _Parser(prog="memomalloc", description="Memorize the memory of an inference.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for name in COMMANDS:
        command = importlib.import_module(f"memomalloc.cli.{name}")
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    return parser
