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
from memomalloc.data.snapshot import Snapshot
from memomalloc.data.snapshot_file import Progress, is_pickle, load_snapshot
from memomalloc.data.trace import Trace
from memomalloc.data.trace_file import load_trace
from memomalloc.errors import FileFormatError

_SNIFFED_BYTES = 4096
_ARCHIVE = b"PK\x03\x04"


def read_any(
    path: str | Path,
    *,
    alignment_bytes: int | None = None,
    max_arena_bytes: int = MAX_ARENA_BYTES,
    progress: Progress | None = None,
) -> Trace | Plan | Problem | DeviceProblem | Snapshot:
    """What a file holds: a pickle a GPU's snapshot, a problem file or MiniMalloc's CSV a problem, a plan file a plan.

    Any other holds a trace. A CSV file in which a buffer has gaps states a problem for a device.

    The file is opened once and read from its beginning to its end: a pipe does as well.

    Args:
        path: the file. What it is called matters only where it ends in ``.csv`` or ``.csv.gz``.
        alignment_bytes: of a CSV file; None: 1, as the format has it.
        max_arena_bytes: of a plan; a larger one is refused.
        progress: of a snapshot, which may be large, is told how many bytes were read.

    Raises:
        FileFormatError: none of them.
    """
    what = "trace, plan, CSV file or memory snapshot"
    with open_input(path, what=what, max_pipe_bytes=MAX_PIPE_BYTES) as file:
        beginning = file.peek(_SNIFFED_BYTES)
        if is_pickle(beginning):
            return load_snapshot(file, path, progress=progress)
        if is_minimalloc_csv(path, beginning):
            return load_csv_problem(file, path, alignment_bytes=alignment_bytes or 1)
        limit_pipe(file, MAX_UNKNOWN_BYTES)
        if beginning.startswith(_ARCHIVE):
            raise FileFormatError(path, "these are saved plans of a model: load them with `load_plans`")
        if f'"{PLAN_FORMAT}"'.encode() in beginning:
            return load_plan(file, path, max_arena_bytes=max_arena_bytes)
        if f'"{PROBLEM_FORMAT}"'.encode() in beginning:
            if alignment_bytes is not None:
                raise FileFormatError(path, "each buffer of a problem file has an alignment of its own: state it there")
            return load_device_problem(file, path)
        _require_no_device_plan(beginning, path)
        return load_trace(file, path)


def read_to_plan(
    path: str | Path, *, alignment_bytes: int | None = None, progress: Progress | None = None
) -> Trace | Problem | DeviceProblem | Snapshot:
    """What a file has to be planned.

    Args:
        path: as `read_any` takes it.
        alignment_bytes: of a CSV file; None: 1, as the format has it.
        progress: as for `read_any`.

    Raises:
        FileFormatError: it is a plan, or nothing that memomalloc reads.
    """
    found = read_any(path, alignment_bytes=alignment_bytes, progress=progress)
    if isinstance(found, Plan):
        raise FileFormatError(path, "this is a plan already, not a trace file or CSV file of buffers")
    return found


def read_trace_or_problem(path: str | Path, *, alignment_bytes: int | None = None) -> Trace | Problem:
    """As `read_to_plan`, of what is planned in one arena: neither a snapshot nor a problem for a device will do."""
    found = read_problem(path, alignment_bytes=alignment_bytes)
    if isinstance(found, DeviceProblem):
        raise FileFormatError(path, "this is a problem for a device: `memomalloc plan` reads it")
    return found


def read_problem(path: str | Path, *, alignment_bytes: int | None = None) -> Trace | Problem | DeviceProblem:
    """As `read_to_plan`, where a snapshot, which may hold several memories, will not do."""
    found = read_to_plan(path, alignment_bytes=alignment_bytes)
    if isinstance(found, Snapshot):
        raise FileFormatError(path, "this is a memory snapshot: `memomalloc export --to trace` makes a trace of it")
    return found


def read_plan_or_snapshot(
    path: str | Path, *, max_arena_bytes: int = MAX_ARENA_BYTES, progress: Progress | None = None
) -> Plan | Snapshot:
    """What a file says of where buffers lie: a plan, or a snapshot of a GPU. Arguments as for `read_any`.

    Raises:
        FileFormatError: neither.
    """
    with open_input(path, what="plan file or memory snapshot") as file:
        beginning = file.peek(_SNIFFED_BYTES)
        if is_pickle(beginning):
            return load_snapshot(file, path, progress=progress)
        _require_no_device_plan(beginning, path)
        return load_plan(file, path, max_arena_bytes=max_arena_bytes)


def _require_no_device_plan(beginning: bytes, path: str | Path) -> None:
    if f'"{DEVICE_PLAN_FORMAT}"'.encode() in beginning:
        raise FileFormatError(path, "this is a plan for a device: `memomalloc check PROBLEM PLAN` reads it")
