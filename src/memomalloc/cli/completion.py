"""Print a script that makes a shell complete commands, options and file names.

examples:
  memomalloc completion bash > ~/.local/share/bash-completion/completions/memomalloc
  memomalloc completion zsh > "${fpath[1]}/_memomalloc"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memomalloc.cli.option_types import input_file, output_file
from memomalloc.extras import require

HELP = "print the completions for a shell"

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script.

    Returns:
        0.
    """
    shtab = require("shtab", extra="cli", feature="memomalloc completion")
    from memomalloc.cli import make_parser

    parser = make_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, complete: object) -> None:
    """Mark every argument that takes a path, in all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, complete)
        elif action.type in (Path, input_file, output_file):
            action.complete = complete  # type: ignore[attr-defined]
