"""Say what would lower the peak: changes of the program, each with the exact peak after it.

INPUT is a trace that knows who read its tensors (`memomalloc.record(calls=True)` and Trace.save), or a Python
program. A program is run as it is, and again with each change that a trace alone cannot foretell: inference mode,
channels last, packed weights, half the batch.

examples:
  memomalloc advise trace.jsonl.gz
  memomalloc advise inference.py --batch 4
  memomalloc advise --json --no-trials inference.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import input_file, time_limit
from memomalloc.extras import require
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.data.trace import Trace

HELP = "say which changes of a program would lower its peak"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--no-trials", action="store_true", help="run a program only as it is: say what its trace alone tells"
    )
    parser.add_argument(
        "--time-limit",
        type=time_limit,
        default=10.0,
        metavar="S",
        help="seconds to search for the three changes that give most (default: 10)",
    )
    parser.add_argument("input", type=input_file, metavar="INPUT", help="a trace, or a .py program")
    parser.add_argument("program_arguments", nargs="*", metavar="ARGUMENTS", help="the program's own")


def run(args: argparse.Namespace) -> int:
    """Advise.

    Returns:
        0, whether there is anything to advise or not; whatever goes wrong is raised.
    """
    if not args.json:
        require("rich", extra="cli", feature="memomalloc advise")
    from memomalloc.advice import advise
    from memomalloc.cli.progress import spinner

    with spinner() as tell:
        trace, tried = _traces(args, tell)
        advice = advise(trace, tried=tried, time_limit_s=args.time_limit, progress=tell)
    if args.json:
        print(json.dumps(advice.as_json()))
        return 0
    from memomalloc.report.advice_table import advice_table
    from memomalloc.report.terminal import console_for_tables

    console_for_tables().print(advice_table(advice))
    return 0


def _traces(args: argparse.Namespace, tell: Callable[[str], object]) -> tuple[Trace, dict[str, Trace]]:
    from memomalloc.data.any_file import read_any
    from memomalloc.data.trace import Trace
    from memomalloc.errors import FileFormatError

    if args.input.suffix == ".py":
        return _recorded(args.input, args.program_arguments, tell, with_trials=not args.no_trials)
    if args.program_arguments:
        raise FileFormatError(args.input, "only a program takes arguments; of traces name one")
    found = read_any(args.input)
    if not isinstance(found, Trace):
        raise FileFormatError(args.input, "this is no trace: no other file says who read its buffers")
    return found, {}


def _recorded(
    program: Path, arguments: Sequence[str], tell: Callable[[str], object], *, with_trials: bool
) -> tuple[Trace, dict[str, Trace]]:
    """Run a program as it is and with each change; one that it does not take is left out, and that said."""
    from memomalloc.advice.trials import AS_IT_IS, TRIALS
    from memomalloc.errors import RecordingError

    as_it_is, said = _run(AS_IT_IS, program, arguments, tell)
    if as_it_is is None:
        raise RecordingError(said)
    tried = {}
    for name in TRIALS if with_trials else ():
        trace, said = _run(name, program, arguments, tell)
        if trace is None:
            print(f"memomalloc: {harmless(program)} does not take {name}: {harmless(said)}", file=sys.stderr)
        else:
            tried[name] = trace
    return as_it_is, tried


def _run(name: str, program: Path, arguments: Sequence[str], tell: Callable[[str], object]) -> tuple[Trace | None, str]:
    """The trace of a program run with a change; None, and the last thing it said, where it does not run through."""
    from memomalloc.advice.trials import AS_IT_IS
    from memomalloc.child_group import child_group
    from memomalloc.data.trace import Trace

    tell(f"running {harmless(program)} {name if name == AS_IT_IS else f'with {name}'}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trace.jsonl"
        command = [sys.executable, "-m", "memomalloc.trial", name, str(out), str(program), *arguments]
        with child_group(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            _, stderr = process.communicate()
        if out.exists():
            return Trace.load(out), ""
    lines = stderr.strip().splitlines()
    return None, lines[-1] if lines else f"its process ended with status {process.returncode}"
