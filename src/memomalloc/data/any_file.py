"""Files of which it is not known what they hold: one rule says what a file is, for every command."""

from __future__ import annotations

from pathlib import Path

from memomalloc.data.device_files import PLAN_FORMAT as DEVICE_PLAN_FORMAT
from memomalloc.data.device_files import PROBLEM_FORMAT, load_device_problem
from memomalloc.data.device_problem import DeviceProblem
from memomalloc.data.input_file import MAX_UNKNOWN_BYTES, limit_pipe, open_input
from memomalloc.data.minimalloc_csv import MAX_PIPE_BYTES, is_minimalloc_csv, load_csv_problem
from memomalloc.data.plan import MAX_ARENA_BYTES, Plan
from memomalloc.data.plan_file import FORMAT as PLAN_FORMAT
from memomalloc.data.plan_file import load_plan
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace
from memomalloc.data.trace_file import load_trace
from memomalloc.errors import FileFormatError

_SNIFFED_BYTES = 4096
_ARCHIVE = b"PK\x03\x04"


def read_any(
    path: str | Path, *, alignment_bytes: int | None = None, max_arena_bytes: int = MAX_ARENA_BYTES
) -> Trace | Plan | Problem | DeviceProblem:
    """What a file holds: a problem file or a CSV file of MiniMalloc a problem, a plan file a plan, any other a trace.

    A CSV file in which a buffer has gaps states a problem for a device.

    The file is opened once and read from its beginning to its end: a pipe does as well.

    Args:
        path: the file. What it is called matters only where it ends in ``.csv`` or ``.csv.gz``.
        alignment_bytes: of a CSV file; None: 1, as the format has it.
        max_arena_bytes: of a plan; a larger one is refused.

    Raises:
        FileFormatError: none of them.
    """
    what = "trace, plan or CSV file"
    with open_input(path, what=what, max_pipe_bytes=MAX_PIPE_BYTES) as file:
        beginning = file.peek(_SNIFFED_BYTES)
        if is_minimalloc_csv(path, beginning):
            return load_csv_problem(file, path, alignment_bytes=alignment_bytes or 1)
        limit_pipe(file, MAX_UNKNOWN_BYTES)
        if beginning.startswith(_ARCHIVE):
            raise FileFormatError(path, "these are saved plans of a model: load them with `load_plans`")
        if f'"{PLAN_FORMAT}"'.encode() in beginning:
            return load_plan(file, path, max_arena_bytes=max_arena_bytes)
        if f'"{PROBLEM_FORMAT}"'.encode() in beginning:
            return load_device_problem(file, path)
        if f'"{DEVICE_PLAN_FORMAT}"'.encode() in beginning:
            raise FileFormatError(path, "this is a plan for a device: `memomalloc check PROBLEM PLAN` reads it")
        return load_trace(file, path)


def read_trace_or_problem(path: str | Path, *, alignment_bytes: int | None = None) -> Trace | Problem:
    """What a file has to be planned in one arena.

    Args:
        path: as `read_any` takes it.
        alignment_bytes: of a CSV file; None: 1, as the format has it.

    Raises:
        FileFormatError: it is a plan, a problem for a device, or nothing that memomalloc reads.
    """
    found = read_problem(path, alignment_bytes=alignment_bytes)
    if isinstance(found, DeviceProblem):
        raise FileFormatError(path, "this is a problem for a device: `memomalloc plan` reads it")
    return found


def read_problem(path: str | Path, *, alignment_bytes: int | None = None) -> Trace | Problem | DeviceProblem:
    """What a file has to be planned.

    Args:
        path: as `read_any` takes it.
        alignment_bytes: of a CSV file; None: 1, as the format has it.

    Raises:
        FileFormatError: it is a plan, or nothing that memomalloc reads.
    """
    found = read_any(path, alignment_bytes=alignment_bytes)
    if isinstance(found, Plan):
        raise FileFormatError(path, "this is a plan already, not a trace file or CSV file of buffers")
    return found
