"""Run a Python program with planned memory, without changing it.

Each module of torch that the program calls from outside any other module is optimized in place, as if by
``memomalloc.optimize(module, shapes="auto", inplace=True)``. Everything else is as with ``python PROGRAM``.

examples:
  memomalloc run inference.py --batch 4
  memomalloc run --stats --report map.html inference.py
  memomalloc run --plans .plans inference.py
  memomalloc run --max-bytes 2GiB --release-after 30 service.py
  memomalloc run -m package.module
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from memomalloc import running
from memomalloc.cli.option_types import named, output_file
from memomalloc.harmless_text import harmless
from memomalloc.running import run_program
from memomalloc.runtime import process_limits

HELP = "run a Python program with planned memory"

#: What a shell expects of a program that was ended by Ctrl-C.
_INTERRUPTED = 128 + signal.SIGINT
_MAX_MAPS = 8
_MAX_DEVIATIONS = 16
_MAX_UNPLANNED = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--report", type=output_file, metavar="FILE", help="write the memory map of what was learned: HTML"
    )
    parser.add_argument("--stats", action="store_true", help="at the end, print what was served from plans to stderr")
    parser.add_argument(
        "--plans",
        type=Path,
        metavar="DIR",
        help="keep what is learned in this folder, for the next start to begin with",
    )
    parser.add_argument(
        "--max-bytes",
        type=_of_environment(process_limits.parse_limit),
        metavar="BYTES",
        help="at most so much planned memory: 512M, 2GiB, 10%% (default: a quarter of what the container may use)",
    )
    parser.add_argument(
        "--release-after",
        type=_of_environment(process_limits.parse_seconds),
        metavar="S",
        help="memory that lay idle for so many seconds goes back to the system; never: it stays (default: 5)",
    )
    parser.add_argument(
        "--shapes",
        choices=("exact", "bucketed", "merged", "auto"),
        help="which calls share a plan, see optimize() (default: auto)",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module's name")
    parser.add_argument("program", metavar="PROGRAM", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="the program's own")


def _of_environment(parse: Callable[[str], object]) -> Callable[[str], str]:
    """The type of an option that a variable of the environment may give as well: its text, if that can be read."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def run(args: argparse.Namespace) -> int:
    """Run the program; an exception of its own, or its exit status, ends this process as it would end the program's.

    Returns:
        0 where it runs through, 1 where an exception ends it.
    """
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.errors import FileFormatError
    from memomalloc.runtime.torch_import import call_after_torch_import

    if not args.is_module and not Path(args.program).is_file():
        raise FileFormatError(args.program, "there is no such file; a Python program was expected")
    require_outputs(args.report, inputs=[] if args.is_module else [Path(args.program)])
    if args.plans is not None:
        args.plans.mkdir(parents=True, exist_ok=True)
    # What the program starts is to be run alike.
    for variable, value in (
        (process_limits.MEMORY_LIMIT_VARIABLE, args.max_bytes),
        (process_limits.RELEASE_AFTER_VARIABLE, args.release_after),
        (process_limits.SHAPES_VARIABLE, args.shapes),
    ):
        if value is not None:
            os.environ[variable] = value
    keep = args.report is not None or args.stats
    # An absolute path: the program may go to another folder.
    plans = args.plans.resolve() if args.plans is not None else None
    call_after_torch_import(functools.partial(_optimize, keep=keep, plans=plans))
    try:
        _run_program(args)
    except SystemExit:
        raise
    except KeyboardInterrupt as error:
        _show(error)
        _interrupted.append(True)
        return _INTERRUPTED
    except BaseException as error:
        _show(error)
        return 1
    finally:
        _conclude(args)
    return 0


def _optimize(*, keep: bool, plans: Path | None) -> None:
    from memomalloc.errors import OptionError, RuntimeNotAvailableError

    try:
        from memomalloc.runtime.extension import load

        load()  # says what is missing, before an import inside the runtime fails
        from memomalloc.runtime.models.outermost_calls import optimize_outermost_calls

        optimize_outermost_calls(keep_what_was_learned=keep, plans=plans)
    except (OptionError, RuntimeNotAvailableError) as error:
        # Not raised: the program would take it for a failure of `import torch`.
        print(f"memomalloc: the program runs unplanned: {error}", file=sys.stderr)


def _run_program(args: argparse.Namespace) -> None:
    atexit.register(_die_of_interrupt)  # first, so that it is called last
    run_program(args.program, args.arguments, is_module=args.is_module)


def _show(error: BaseException) -> None:
    """Print an exception as the interpreter does, without the frames that are not the program's."""
    shown = error.with_traceback(_of_the_program(error.__traceback__))
    sys.excepthook(type(shown), shown, shown.__traceback__)


def _of_the_program(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_ours(file: str) -> bool:
    return file in (__file__, running.__file__, runpy.__file__, "<frozen runpy>")


_interrupted: list[bool] = []


def _die_of_interrupt() -> None:
    """End as the interpreter does after Ctrl-C: by the signal, so that a shell's loop ends as well."""
    if not _interrupted:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


# --- What was learned ----------------------------------------------------------------------------------------------


def _conclude(args: argparse.Namespace) -> None:
    """Say what was learned. Whatever goes wrong here is not the program's fault: its exit status stays."""
    try:
        _report(args)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            print(f"memomalloc: error: no report: {harmless(error)}", file=sys.stderr)


def _report(args: argparse.Namespace) -> None:
    if "torch" not in sys.modules:
        if args.stats or args.report is not None:
            print("memomalloc: the program did not use torch", file=sys.stderr)
        return
    if args.plans is not None:
        _save_plans()
    if args.stats:
        _print_stats()
    if args.report is not None:
        _write_report(args.report, title=Path(args.program).name)


def _save_plans() -> None:
    from memomalloc.runtime.models.outermost_calls import save_plans

    try:
        save_plans()
    except OSError as error:  # the program has done its work all the same
        print(f"memomalloc: what was learned could not be kept: {error}", file=sys.stderr)


def _print_stats() -> None:
    from memomalloc.runtime.models.outermost_calls import deviations, unplanned_texts
    from memomalloc.runtime.models.summary_text import memory_summary

    print(memory_summary(), file=sys.stderr)
    for text in unplanned_texts()[:_MAX_UNPLANNED]:
        print(f"memomalloc: {text}", file=sys.stderr)
    for deviation in deviations()[:_MAX_DEVIATIONS]:
        print(f"memomalloc: {harmless(deviation)}", file=sys.stderr)


def _write_report(path: Path, *, title: str) -> None:
    from memomalloc.report.html_page import write_page
    from memomalloc.report.placement import Placement
    from memomalloc.runtime.models.outermost_calls import learned

    known = sorted(learned(), key=lambda entry: -entry[1].plan.arena_bytes)[:_MAX_MAPS]
    if not known:
        print(
            "memomalloc: no report: no call was learned (a module is learned when it is called often)", file=sys.stderr
        )
        return
    write_page(
        [Placement.of_plan(calls.plan, trace=calls.trace, title=name) for name, calls in known], path, title=title
    )
    print(f"memomalloc: wrote {named(path)}", file=sys.stderr)
