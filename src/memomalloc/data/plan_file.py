"""Plan files: one JSON object, written whole, read with suspicion.

``{"format": "memomalloc-plan", "version": 1, "checksum": "sha256:...", "plan": {...}}``. The checksum is over the value
of ``plan`` as `canonical` writes it; it finds damage, not malice. Against malice everything is validated: types,
ranges, alignment, pins, the arena, the lower bound, and that no two live buffers share a byte.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.checker import check
from memomalloc.data.columns import INT64_MAX, Int64Array, read_only
from memomalloc.data.json_document import parse_json, read_bounded
from memomalloc.data.plan import Plan
from memomalloc.errors import FileFormatError, InvalidPlanError, InvalidProblemError

FORMAT = "memomalloc-plan"
VERSION = 1
MAX_FILE_BYTES = 2**30

_COLUMNS = ("sizes", "starts", "ends", "offsets", "smallest_sizes")
_NUMBERS = ("arena_bytes", "lower_bound_bytes", "alignment_bytes")
_REMEDY = "plan again, or fetch the file again"


def canonical(payload: dict[str, Any]) -> bytes:
    """The bytes that the checksum is over: keys sorted, no spaces, ASCII."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def checksum(payload: dict[str, Any]) -> str:
    """The checksum of the value of ``plan``."""
    return "sha256:" + hashlib.sha256(canonical(payload)).hexdigest()


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file, atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    payload: dict[str, Any] = {name: getattr(plan, name).tolist() for name in _COLUMNS}
    payload |= {name: int(getattr(plan, name)) for name in _NUMBERS}
    payload["escapes"] = np.flatnonzero(plan.escapes).tolist()
    payload["alignments"] = None if plan.alignments is None else plan.alignments.tolist()
    if plan.pinned_offsets is not None:
        payload["pinned_offsets"] = plan.pinned_offsets.tolist()
    payload["planner"] = plan.planner
    payload["proven_optimal"] = bool(plan.proven_optimal)
    payload["elapsed_s"] = float(plan.elapsed_s)
    document = {"format": FORMAT, "version": VERSION, "checksum": checksum(payload), "plan": payload}
    with atomic_file(path) as file:
        file.write(json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n")


def read_plan(path: str | Path, *, max_arena_bytes: int) -> Plan:
    """Read and check a plan file.

    Raises:
        FileFormatError: it is not a whole, undamaged file of a valid plan.
    """
    document = parse_json(read_bounded(path, MAX_FILE_BYTES, what="plan file"), path, what="plan file")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FileFormatError(path, f'not a plan file: it has no "format": "{FORMAT}"')
    if document.get("version") != VERSION or isinstance(document["version"], bool):
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
    _require_keys(
        path,
        payload,
        {*_COLUMNS, *_NUMBERS, "escapes", "alignments", "planner", "proven_optimal", "elapsed_s"},
        optional={"pinned_offsets"},
    )
    try:
        return _validated(payload, path, max_arena_bytes)
    except (InvalidProblemError, InvalidPlanError) as error:
        raise FileFormatError(path, f"not a valid plan: {error}; {_REMEDY}") from error


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
    if isinstance(elapsed_s, bool) or not isinstance(elapsed_s, (int, float)) or not 0 <= elapsed_s < math.inf:
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


def _require_keys(
    path: str | Path, found: dict[str, Any], keys: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> None:
    missing, unknown = sorted(keys - found.keys()), sorted(found.keys() - keys - optional)
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
    # One pass over the types: numpy would take true for 1 and 1.5 for a reason to make all floats.
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        raise FileFormatError(path, f"{name} must be a list of whole numbers: {_REMEDY}")
    try:
        return read_only(np.array(values, dtype=np.int64))
    except OverflowError:
        raise FileFormatError(path, f"{name} has a number of more than 64 bits: {_REMEDY}") from None
