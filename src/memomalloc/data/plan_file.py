"""Plan files: one JSON object, written whole, read with suspicion.

``{"format": "memomalloc-plan", "version": 1, "checksum": "sha256:...", "plan": {...}}``. The checksum is over the value
of ``plan`` as `canonical` writes it; it finds damage, not malice. Against malice everything is validated: types,
ranges, alignment, pins, the arena, the lower bound, and that no two live buffers share a byte.

The columns of numbers, which are nearly all of a file, go from text to arrays without becoming Python's numbers, so
that reading takes some times the size of the text, whatever the text says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.checker import check
from memomalloc.data.columns import INT64_MAX, Int64Array, read_only
from memomalloc.data.input_file import open_input, read_all
from memomalloc.data.json_document import parse_json
from memomalloc.data.plan import MAX_ARENA_BYTES, Plan
from memomalloc.errors import FileFormatError, InvalidPlanError, InvalidProblemError

FORMAT = "memomalloc-plan"
VERSION = 1
MAX_FILE_BYTES = 2**30
MAX_HEAD_BYTES = 2**16
"""Of a file without its columns of numbers: real ones have 500."""

_COLUMNS = ("sizes", "starts", "ends", "offsets", "smallest_sizes")
_NUMBERS = ("arena_bytes", "lower_bound_bytes", "alignment_bytes")
_OTHERS = ("escapes", "alignments", "planner", "proven_optimal", "elapsed_s")
_OPTIONAL = ("pinned_offsets",)
_REMEDY = "plan again, or fetch the file again"

#: A text of JSON, or a list of whole numbers. A text that is never closed reaches to the end, so that none is searched
#: through twice.
_TEXT_OR_NUMBERS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|\[[-0-9, \t\r\n]*+\]', re.DOTALL)
_SPACE = b" \t\r\n"
_SPACE_IN_NUMBER = re.compile(rb"[-0-9][ \t\r\n]+[-0-9]")
_NUMBERS_AT_ONCE = 2**16


def canonical(payload: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes that the checksum is over, piece by piece: JSON with sorted keys and no spaces, in ASCII.

    Args:
        payload: values that JSON has, and arrays of whole numbers.
    """
    yield b"{"
    for position, name in enumerate(sorted(payload)):
        yield ("," if position else "").encode() + _compact(name) + b":"
        value = payload[name]
        if isinstance(value, np.ndarray):
            yield from _digits(value)
        else:
            yield _compact(value)
    yield b"}"


def checksum(payload: Mapping[str, Any]) -> str:
    """The checksum of the value of ``plan``."""
    digest = hashlib.sha256()
    for piece in canonical(payload):
        digest.update(piece)
    return "sha256:" + digest.hexdigest()


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file, atomically; compressed when the name ends in ``.gz``.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        dump_plan(plan, file)


def dump_plan(plan: Plan, file: IO[bytes]) -> None:
    """Write what a plan file has."""
    payload: dict[str, Any] = {name: getattr(plan, name) for name in _COLUMNS}
    payload |= {name: int(getattr(plan, name)) for name in _NUMBERS}
    payload["escapes"] = np.flatnonzero(plan.escapes)
    payload["alignments"] = plan.alignments
    if plan.pinned_offsets is not None:
        payload["pinned_offsets"] = plan.pinned_offsets
    payload["planner"] = plan.planner
    payload["proven_optimal"] = bool(plan.proven_optimal)
    payload["elapsed_s"] = float(plan.elapsed_s)
    head = {"format": FORMAT, "version": VERSION, "checksum": checksum(payload)}
    file.write(_compact(head)[:-1] + b',"plan":')
    for piece in canonical(payload):
        file.write(piece)
    file.write(b"}\n")


def read_plan(path: str | Path, *, max_arena_bytes: int = MAX_ARENA_BYTES) -> Plan:
    """Read and check a plan file.

    Raises:
        FileFormatError: it is not a whole, undamaged file of a valid plan.
    """
    with open_input(path, what="plan file") as file:
        return load_plan(file, path, max_arena_bytes=max_arena_bytes)


def load_plan(file: IO[bytes], path: str | Path, *, max_arena_bytes: int = MAX_ARENA_BYTES) -> Plan:
    """Read and check what a plan file has.

    Args:
        file: read to its end.
        path: for messages.
        max_arena_bytes: a larger arena is refused.

    Raises:
        FileFormatError: it is not a whole, undamaged file of a valid plan.
    """
    document = _parse(read_all(file, path, MAX_FILE_BYTES, what="plan file"), path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FileFormatError(path, f'not a plan file: it has no "format": "{FORMAT}"')
    if type(document.get("version")) is not int or document["version"] != VERSION:
        raise FileFormatError(
            path,
            f"plan file of version {document.get('version')!r:.20}, this memomalloc reads {VERSION}: plan again",
        )
    _require_keys(path, document, {"format", "version", "checksum", "plan"})
    payload = document["plan"]
    if not isinstance(payload, dict):
        raise FileFormatError(path, f"plan must be an object: {_REMEDY}")
    if document["checksum"] != checksum(payload):
        raise FileFormatError(path, f"the checksum does not match: the file is damaged or was edited; {_REMEDY}")
    _require_keys(path, payload, {*_COLUMNS, *_NUMBERS, *_OTHERS}, optional=_OPTIONAL)
    try:
        return _validated(payload, path, max_arena_bytes)
    except (InvalidProblemError, InvalidPlanError) as error:
        raise FileFormatError(path, f"not a valid plan: {error}; {_REMEDY}") from error


def _parse(text: bytes, path: str | Path) -> Any:
    """The document, with an array for each list of whole numbers in ``plan``."""
    mark = secrets.token_hex(16)  # which nobody can have written into the file
    columns: dict[str, Int64Array] = {}
    head: list[bytes] = []
    head_bytes, reached = 0, 0
    for match in _TEXT_OR_NUMBERS.finditer(text):
        if text[match.start()] == ord('"'):
            continue
        name = f"{mark}{len(columns)}"
        head += (text[reached : match.start()], b'"', name.encode(), b'"')
        head_bytes += match.start() - reached + len(name)
        reached = match.end()
        if head_bytes > MAX_HEAD_BYTES:
            break
        columns[name] = _numbers(text, match.start() + 1, match.end() - 1, path)
    if head_bytes + len(text) - reached > MAX_HEAD_BYTES:
        # What is no plan at all is told apart from one that is damaged.
        if b'"format"' not in text[:MAX_HEAD_BYTES]:
            raise FileFormatError(path, f'damaged, or not a plan file: it has no "format": "{FORMAT}"')
        message = f"the file is damaged, more than {MAX_HEAD_BYTES} bytes of it belong to no column: {_REMEDY}"
        raise FileFormatError(path, message)
    document = parse_json(b"".join([*head, text[reached:]]), path, what="plan file")
    if isinstance(document, dict) and isinstance(document.get("plan"), dict):
        payload = document["plan"]
        for key, value in payload.items():
            if isinstance(value, str) and value in columns:
                payload[key] = columns[value]
    return document


def _numbers(text: bytes, start: int, end: int, path: str | Path) -> Int64Array:
    """The whole numbers between the brackets of a list, which are as JSON writes them and have at most 64 bits."""
    listed = text[start:end].translate(None, _SPACE)
    column = np.zeros(0, dtype=np.int64)
    if not listed:
        return read_only(column)
    with warnings.catch_warnings(), contextlib.suppress(ValueError):
        # What is no number is told in one way or another by numpy's versions, and found below in any case.
        warnings.simplefilter("ignore", DeprecationWarning)
        column = np.fromstring(listed, dtype=np.int64, sep=",")
    # Only what is written back as it was read has one reading: no "-0", no "1,,2", no "12 3", nothing cut to 64 bits.
    reached = 0
    for piece in _digits(column):
        piece = piece.strip(b"[]")
        if listed[reached : reached + len(piece)] != piece:
            break
        reached += len(piece)
    has_space = len(listed) < end - start
    if reached != len(listed) or (has_space and _SPACE_IN_NUMBER.search(text, start, end)):
        raise FileFormatError(path, f"a list has what is no whole number of at most 64 bits: {_REMEDY}")
    return read_only(column)


def _digits(column: Int64Array) -> Iterator[bytes]:
    """A list of numbers in JSON, in pieces."""
    yield b"["
    for first in range(0, len(column), _NUMBERS_AT_ONCE):
        numbers = ",".join(map(str, column[first : first + _NUMBERS_AT_ONCE].tolist()))
        yield f",{numbers}".encode() if first else numbers.encode()
    yield b"]"


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _validated(payload: dict[str, Any], path: str | Path, max_arena_bytes: int) -> Plan:
    columns = {name: _column(payload, name, path) for name in _COLUMNS}
    numbers = {name: _number(payload, name, path) for name in _NUMBERS}
    n = len(columns["sizes"])
    for name, column in columns.items():
        if len(column) != n:
            raise FileFormatError(path, f"{name} has {len(column)} entries, sizes has {n}: {_REMEDY}")
    if numbers["arena_bytes"] > max_arena_bytes:
        raise FileFormatError(
            path,
            f"an arena of {numbers['arena_bytes']} bytes is larger than max_arena_bytes = {max_arena_bytes}; "
            "if that is meant, pass a larger max_arena_bytes",
        )
    escaped = _column(payload, "escapes", path)
    if len(escaped) and (escaped.min() < 0 or escaped.max() >= n or (np.diff(escaped) <= 0).any()):
        raise FileFormatError(path, f"escapes must be increasing indices of buffers: {_REMEDY}")
    escapes = np.zeros(n, dtype=np.bool_)
    escapes[escaped] = True
    alignments = None if payload["alignments"] is None else _column(payload, "alignments", path)
    pins = _column(payload, "pinned_offsets", path) if "pinned_offsets" in payload else None
    planner, proven, elapsed_s = payload["planner"], payload["proven_optimal"], payload["elapsed_s"]
    if not isinstance(planner, str) or not planner.isidentifier() or len(planner) > 100:
        raise FileFormatError(path, f"planner must be a name: {_REMEDY}")
    if not isinstance(proven, bool):
        raise FileFormatError(path, f"proven_optimal must be true or false: {_REMEDY}")
    if type(elapsed_s) not in (int, float) or not 0 <= elapsed_s < math.inf:
        raise FileFormatError(path, f"elapsed_s must be a number of seconds: {_REMEDY}")

    plan = Plan(
        sizes=columns["sizes"],
        starts=columns["starts"],
        ends=columns["ends"],
        offsets=columns["offsets"],
        escapes=read_only(escapes),
        smallest_sizes=columns["smallest_sizes"],
        arena_bytes=numbers["arena_bytes"],
        lower_bound_bytes=numbers["lower_bound_bytes"],
        planner=planner,
        proven_optimal=proven,
        elapsed_s=float(elapsed_s),
        alignment_bytes=numbers["alignment_bytes"],
        alignments=alignments,
        pinned_offsets=pins,
    )
    problem = plan.problem  # validates sizes, lifetimes and alignments
    if (problem.sizes != plan.sizes).any():
        raise FileFormatError(path, f"sizes must be multiples of alignment_bytes: {_REMEDY}")
    if ((plan.smallest_sizes < np.minimum(plan.sizes, 1)) | (plan.smallest_sizes > plan.sizes)).any():
        raise FileFormatError(path, f"smallest_sizes must be between 1 and sizes: {_REMEDY}")
    check(problem, plan.offsets)
    arena = int(np.max((plan.offsets + plan.sizes)[plan.sizes > 0], initial=0))
    if arena != plan.arena_bytes:
        raise FileFormatError(path, f"arena_bytes is {plan.arena_bytes}, the buffers need {arena}: {_REMEDY}")
    if problem.lower_bound_bytes != plan.lower_bound_bytes:
        raise FileFormatError(
            path,
            f"lower_bound_bytes is {plan.lower_bound_bytes}, it should be {problem.lower_bound_bytes}: {_REMEDY}",
        )
    return plan


def _require_keys(path: str | Path, found: dict[str, Any], keys: set[str], optional: tuple[str, ...] = ()) -> None:
    missing, unknown = sorted(keys - found.keys()), sorted(found.keys() - keys - {*optional})
    if missing or unknown:
        fault = f"{missing[0]!r} is missing" if missing else f"unknown key {unknown[0]!r:.60}"
        raise FileFormatError(path, f"{fault}: {_REMEDY}")


def _number(payload: dict[str, Any], name: str, path: str | Path) -> int:
    value = payload[name]
    if type(value) is not int or not 0 <= value <= INT64_MAX:
        raise FileFormatError(path, f"{name} must be a whole number of at most 64 bits: {_REMEDY}")
    return value


def _column(payload: dict[str, Any], name: str, path: str | Path) -> Int64Array:
    values = payload[name]
    if not isinstance(values, np.ndarray):
        raise FileFormatError(path, f"{name} must be a list of whole numbers: {_REMEDY}")
    return values
