"""The command line: one file per command, each thin.

A command is a module with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args)``, which gives the exit
status. It imports what it needs when it runs, so that ``memomalloc --help`` needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from memomalloc.cli.streams import flush, make_patient
from memomalloc.cli.termination import Terminated, raise_terminated
from memomalloc.errors import CapacityError, MemomallocError
from memomalloc.harmless_text import harmless

#: Commands in the order in which ``--help`` lists them; the name of the module is that of the command.
COMMANDS = (
    "run",
    "plan",
    "planners",
    "compiler",
    "bench",
    "demo",
    "build",
    "doctor",
    "watch",
    "show",
    "diff",
    "advise",
    "check",
    "export",
    "completion",
)
#: What runs a program in this process changes nothing of the process that the program could see.
_RUNS_A_PROGRAM = ("run",)

WRONG_INPUT = 2
NO_PLAN = 3
#: What a shell expects of a program that was ended by Ctrl-C.
INTERRUPTED = 130


class UsageError(MemomallocError):
    """Arguments that a command does not have or take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line, without the program; None: those of this process.

    Returns:
        The exit status: 0 done, 1 not done, 2 wrong usage or input, 3 no plan within the capacity, 130 interrupted.
        The reason is on stderr; with ``--json`` it is also the one object on stdout.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = _wants_json(arguments), "--debug" in arguments
    try:
        args = make_parser(_commands_of(arguments)).parse_args(arguments)
        as_json, debug = getattr(args, "json", False) is True, args.debug
        if args.command in _RUNS_A_PROGRAM:
            return int(args.run(args))
        make_patient()
        with raise_terminated():
            status = int(args.run(args))
            flush(sys.stdout)
            return status
    except UsageError as error:
        raise SystemExit(_fail(_one_line(error), WRONG_INPUT, as_json=as_json)) from None
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, as_json=as_json)
    except Terminated as end:
        _fail(str(end), end.status, as_json=as_json)
        end.die()
    except MemoryError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error) or "there is not enough memory for this", WRONG_INPUT, as_json=as_json)
    except (MemomallocError, OSError) as error:
        if debug:
            traceback.print_exc()
        status = NO_PLAN if isinstance(error, CapacityError) else WRONG_INPUT
        return _fail(_one_line(error), status, as_json=as_json)
    except Exception as error:
        # A fault of ours: still no page of frames, unless they are asked for.
        if debug:
            traceback.print_exc()
        message = f"{UNEXPECTED} ({type(error).__name__}: {_one_line(error)}): please report it, with what --debug adds"
        return _fail(message, WRONG_INPUT, as_json=as_json)


#: How the message of a fault of memomalloc's own begins.
UNEXPECTED = "this should not have happened"


def _fail(message: str, status: int, *, as_json: bool) -> int:
    prefix = "" if status >= 128 else "error: "
    try:
        print(f"memomalloc: {prefix}{message}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": message, "status": status}))
        flush(sys.stdout)
    except (OSError, ValueError, AttributeError):
        pass  # there is nobody to tell
    return status


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line that may be wrong asks for JSON on standard output."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    commands = ("plan", "planners", "doctor", "watch", "show", "diff", "advise", "check")
    return command in commands and "--json" in arguments


def _one_line(error: BaseException) -> str:
    """What an error says; those of the system without their number, which tells a person nothing."""
    if isinstance(error, OSError) and error.strerror:
        return harmless(error.strerror if error.filename is None else f"{_name(error.filename)}: {error.strerror}")
    return harmless(" ".join(str(error).split())) or type(error).__name__


def _name(filename: object) -> str:
    text = filename.decode(errors="replace") if isinstance(filename, bytes) else str(filename)
    return {"/dev/stdin": "standard input", "/dev/stdout": "standard output"}.get(text, text)


class _Parser(argparse.ArgumentParser):
    """A parser, and one for each command, whose errors are one line as all others are.

    Options and inputs may be mixed, as in ``show a.json --table b.json``; not where the rest belongs to a program: of
    a command that takes ``program_arguments``, what follows a ``.py`` file.
    """

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args is not None and not any(
            action.nargs in (argparse.REMAINDER, argparse.PARSER) for action in self._get_positional_actions()
        ):
            args = self._options_first(list(args))
        return super().parse_known_args(args, namespace)

    def _options_first(self, arguments: list[str]) -> list[str]:
        options: list[str] = []
        inputs: list[str] = []
        takes_programs = any(action.dest == "program_arguments" for action in self._get_positional_actions())
        left = iter(arguments)
        for argument in left:
            if argument == "--":
                inputs += left
            elif not argument.startswith("-") or argument == "-":
                inputs.append(argument)
                if takes_programs and argument.endswith(".py"):
                    inputs += left  # the program's own
            else:
                options.append(argument)
                if self._takes_next(argument):
                    options += [value for value in [next(left, None)] if value is not None]
        return [*options, "--", *inputs] if inputs else options

    def _takes_next(self, option: str) -> bool:
        """Whether the argument after an option is its value."""
        known = self._option_string_actions
        found = {id(known[option]): known[option]} if option in known else {}
        if not found and option.startswith("--") and "=" not in option:
            found = {id(action): action for name, action in known.items() if name.startswith(option)}
        return len(found) == 1 and next(iter(found.values())).nargs is None


class _Version(argparse.Action):
    """Reads the version only when asked: importing the package for it would be felt by every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from memomalloc import __version__

        print(f"memomalloc {__version__}")
        parser.exit()


def _commands_of(arguments: Sequence[str]) -> Sequence[str]:
    """The one that is named, or all: a program that is run is to pay for no other."""
    first = next((argument for argument in arguments if argument != "--debug"), "")
    return [first] if first in COMMANDS else COMMANDS


def make_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Commands with their options."""
    parser = _Parser(prog="memomalloc", description="Memorize the memory of an inference.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for name in names:
        command = importlib.import_module(f"memomalloc.cli.{name}")
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run, command=name)
    return parser
