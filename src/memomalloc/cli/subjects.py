"""What a path on the command line names: a file of any kind, or a program that is recorded. No command of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import runpy
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memomalloc.cli.option_types import input_file
from memomalloc.cli.streams import stdout_as_stderr
from memomalloc.cli.termination import Terminated
from memomalloc.data.byte_text import byte_text

if TYPE_CHECKING:
    from memomalloc.data.plan import Plan
    from memomalloc.data.problem import Problem
    from memomalloc.data.snapshot import Snapshot, SnapshotMemory
    from memomalloc.data.trace import Trace
    from memomalloc.report.placement import Placement


def record_script(path: Path, arguments: Sequence[str]) -> Trace:
    """Run a program as ``python path arguments`` would, and record every tensor that it allocates, on all its threads.

    What the program prints goes to stderr: stdout is for the report. A program that does not end (a service) is
    ended by Ctrl-C or SIGTERM, and what was recorded until then is the trace.

    Raises:
        FileFormatError: there is no such file.
        RecordingError: the program ended with an error of its own, or allocated no tensor.
    """
    import memomalloc
    from memomalloc.errors import FileFormatError, RecordingError

    if not path.is_file():
        raise FileFormatError(path, "there is no such file; a Python program was expected")
    recording = memomalloc.record(threads="all", calls=True)
    before = sys.argv, sys.path[:]
    sys.argv, sys.path[:1] = [str(path), *arguments], [str(path.resolve().parent)]
    names: dict[str, Any] = {}  # of the program: by these its models are known
    try:
        with stdout_as_stderr(), recording:
            names = runpy.run_path(str(path), run_name="__main__")
    except (KeyboardInterrupt, Terminated) as end_:
        print(f"memomalloc: {path.name} was ended ({end_ or 'interrupted'}): recorded until then", file=sys.stderr)
    except Exception as error:
        raise RecordingError(
            f"{path} failed ({type(error).__name__}: {error}){_where(error, path)}: it is shown when it runs through"
        ) from error
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RecordingError(f"{path} ended with status {end.code}: it is shown when it runs through") from end
    finally:
        sys.argv, sys.path[:] = before
    trace = recording.trace
    del names
    if not len(trace):
        others = f"; other threads allocated {byte_text(trace.elsewhere_bytes)}" if trace.elsewhere_bytes else ""
        raise RecordingError(f"{path} allocated no tensor on the CPU in a thread that could be recorded{others}")
    return trace


def program_of(text: str) -> tuple[Path, tuple[str, ...]]:
    """A path, and the arguments of the program that it names: ``"inference.py --batch 4"`` is one of both."""
    if not Path(text).exists():
        with contextlib.suppress(ValueError):  # an open quotation mark
            name, *arguments = shlex.split(text) or [text]
            if name.endswith(".py") and arguments:
                return input_file(name), tuple(arguments)
    return input_file(text), ()


def _where(error: Exception, path: Path) -> str:
    """The line of the program that an error came through last; --debug shows the others."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" at line {lines[-1]}" if lines else ""


def read_subject(path: Path, *, script_arguments: Sequence[str] = ()) -> Trace | Plan | Problem | Snapshot:
    """What a path names; a program is run.

    Raises:
        MemomallocError: the file or the program does not do.
    """
    from memomalloc.cli.progress import reading_progress
    from memomalloc.data.any_file import read_any
    from memomalloc.data.device_problem import DeviceProblem
    from memomalloc.data.problem import MAX_TOTAL_BYTES
    from memomalloc.errors import FileFormatError

    if path.suffix == ".py":
        return record_script(path, script_arguments)
    with reading_progress(path.name) as progress:
        # How large an arena may be matters to who maps it: nobody here.
        found = read_any(path, max_arena_bytes=MAX_TOTAL_BYTES, progress=progress)
    if isinstance(found, DeviceProblem):
        raise FileFormatError(path, "this is a problem for a device: `memomalloc plan` reads it")
    return found


def chosen_memory(snapshot: Snapshot, wanted: str | None) -> SnapshotMemory:
    """The memory of a snapshot that a command is about.

    Args:
        snapshot: it has at least one.
        wanted: its id; None: the largest, which is said on stderr where there are several.

    Raises:
        OptionError: there is none of that id.
    """
    from memomalloc.errors import OptionError
    from memomalloc.harmless_text import harmless

    known = ", ".join(f"{memory.id} ({memory.name})" for memory in snapshot.memories)
    if wanted is None:
        found = snapshot.largest
        if len(snapshot.memories) > 1:
            print(
                f"memomalloc: {harmless(snapshot.path.name)} has several memories: {known}; "
                f"this is --memory {found.id}, the largest",
                file=sys.stderr,
            )
        return found
    for memory in snapshot.memories:
        if memory.id == wanted:
            return memory
    raise OptionError(f"{snapshot.path.name} has no memory {wanted!r:.60}; it has {known}")


def chosen_memories(snapshot: Snapshot, wanted: str | None) -> list[SnapshotMemory]:
    """All memories of a snapshot, or the one of an id.

    Raises:
        OptionError: there is none of that id.
    """
    return list(snapshot.memories) if wanted is None else [chosen_memory(snapshot, wanted)]


def placements_of(
    subject: Trace | Plan | Problem,
    *,
    what: str,
    trace_path: Path | None = None,
    planners: Sequence[str] = ("auto",),
    time_limit_s: float = 1.0,
    title: str | None = None,
) -> list[Placement]:
    """Where the buffers of a trace, plan or problem go; what has no plan is planned by each of the planners.

    Args:
        subject: what was read.
        what: it is called, while it is planned.
        trace_path: of a plan: what it was made from.
        planners: their names.
        time_limit_s: of each.
        title: of what is shown; None: the planner.

    Raises:
        MemomallocError: a planner does not do.
    """
    from memomalloc.cli.progress import planning_progress
    from memomalloc.data.plan import Plan
    from memomalloc.data.trace import Trace
    from memomalloc.planners import plan
    from memomalloc.report.lanes import placement_in_lanes, threads_of
    from memomalloc.report.placement import Placement

    if isinstance(subject, Plan):
        trace = None if trace_path is None else Trace.load(trace_path)
        return [Placement.of_plan(subject, trace=trace, title=title)]
    trace = subject if isinstance(subject, Trace) else None
    placements = []
    with planning_progress(what) as progress:
        for planner in planners:
            make = functools.partial(plan, planner=planner, time_limit_s=time_limit_s, progress=progress)
            if trace is not None and len(threads_of(trace)) > 1:
                placement = placement_in_lanes(trace, make)
            else:
                placement = Placement.of_plan(make(subject), trace=trace)
            if title is not None:
                own = f"{title}, {placement.planner}" if len(planners) > 1 else title
                placement = dataclasses.replace(placement, title=own)
            placements.append(placement)
    return placements
