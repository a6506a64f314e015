"""The memory map of a snapshot: blocks and segments at their real addresses, and what a plan would need.

A history may have millions of buffers, and a map shows some ten thousand well: what is left out is stated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memomalloc.data.checker import check
from memomalloc.data.columns import BoolArray, Int64Array, read_only
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.snapshot import Annotation, SnapshotMemory
from memomalloc.errors import FileFormatError, InvalidPlanError
from memomalloc.report.live_bytes import LiveBytes
from memomalloc.report.placement import Placement, Reserved, offsets_without_gaps
from memomalloc.report.snapshot_marks import marks_of

MAX_RECTANGLES = 40_000
MAX_CORNERS = 8192
"""Of the curve above the map; beyond, each step of it is the most within some ticks."""
_RESOLUTION = 2048
"""A gap of less than this part of all time is not seen in the whole map."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Which buffers are drawn, how long each, and how that is said."""

    indices: Int64Array
    ends: Int64Array
    escapes: BoolArray
    note: str


def placements_of_memory(
    memory: SnapshotMemory,
    planned: Plan | None,
    *,
    annotations: Iterable[Annotation] = (),
    title: str | None = None,
) -> list[Placement]:
    """Where the buffers of a memory lay, and beside it where a plan puts them.

    Args:
        memory: of a snapshot.
        planned: of ``memory.problem()``; None: only the real addresses.
        annotations: of the snapshot.
        title: of the real ones; None: the name of the memory.
    """
    live = LiveBytes.of(memory.sizes, memory.starts, memory.ends)
    drawn = _drawn(memory, merges=True)
    segments = memory.segments
    offsets = offsets_without_gaps(
        np.concatenate([memory.addresses, segments.addresses]), np.concatenate([memory.sizes, segments.sizes])
    )
    of_segments = offsets[len(memory) :]
    reserved = Reserved(of_segments, segments.sizes, segments.starts, segments.ends)
    origins = memory.origins_of(drawn.indices)
    marks, left_out = marks_of(memory, annotations)
    real = Placement(
        title=title or f"{memory.name}: real addresses",
        sizes=read_only(memory.sizes[drawn.indices]),
        starts=read_only(memory.starts[drawn.indices]),
        ends=read_only(drawn.ends),
        escapes=read_only(drawn.escapes),
        offsets=read_only(offsets[drawn.indices]),
        origins=origins,
        extent_bytes=int((offsets + np.concatenate([memory.sizes, segments.sizes])).max(initial=0)),
        lower_bound_bytes=None,
        planner="caching allocator",
        whole=live,
        reserved=reserved,
        note="; ".join(filter(None, (drawn.note, left_out))),
        marks=marks,
    )
    if planned is None:
        return [real]
    if drawn.note:
        # In a plan, what follows each other at one address of the allocator lies anywhere.
        drawn = _drawn(memory, merges=False)
        origins = memory.origins_of(drawn.indices)
    beside = dataclasses.replace(
        real,
        title=f"what a static plan needs ({planned.planner})",
        sizes=read_only(memory.sizes[drawn.indices]),
        starts=read_only(memory.starts[drawn.indices]),
        ends=read_only(drawn.ends),
        escapes=read_only(drawn.escapes),
        offsets=read_only(planned.offsets[drawn.indices]),
        origins=origins,
        extent_bytes=planned.arena_bytes,
        lower_bound_bytes=planned.lower_bound_bytes,
        planner=planned.planner,
        proven_optimal=planned.proven_optimal,
        reserved=None,
        note=drawn.note,
    )
    return [real, beside]


def require_no_overlap(memory: SnapshotMemory, path: Path) -> None:
    """See that no two buffers that were alive together shared a byte, by the checker of plans.

    Raises:
        FileFormatError: two did: the events are damaged, or some are missing; the message names them.
    """
    problem = Problem.from_arrays(memory.sizes, memory.starts, memory.ends)
    try:
        check(problem, memory.addresses)
    except InvalidPlanError as error:
        raise FileFormatError(path, f"{memory.name}: {error}: the events do not go together") from None


def corners(live: LiveBytes, reserved: LiveBytes | None) -> tuple[Int64Array, Int64Array, Int64Array | None]:
    """Both step functions at common ticks: of each step the first tick and the value.

    With more than `MAX_CORNERS` steps, each that is left is the largest value within its ticks.
    """
    ticks = live.ticks if reserved is None else np.union1d(live.ticks, reserved.ticks)
    columns = [_values(one, ticks) for one in (live, reserved) if one is not None]
    if len(ticks) > MAX_CORNERS:
        edges = np.linspace(ticks[0], ticks[-1], MAX_CORNERS, dtype=np.int64)
        first = np.unique(np.searchsorted(ticks, edges))
        columns = [np.maximum.reduceat(column, first) for column in columns]
        columns = [np.append(column[:-1], 0) for column in columns]
        ticks = ticks[first]
    return ticks, columns[0], columns[1] if reserved is not None else None


def _values(live: LiveBytes, ticks: Int64Array) -> Int64Array:
    return np.append(live.live_bytes, 0)[np.searchsorted(live.ticks, ticks, side="right") - 1]


def _drawn(memory: SnapshotMemory, *, merges: bool) -> _Drawn:
    n = len(memory)
    if n <= MAX_RECTANGLES:
        return _Drawn(np.arange(n), memory.ends, memory.escapes, "")
    indices, ends, escapes = np.arange(n), memory.ends, memory.escapes
    notes = []
    if merges:
        gap = max((memory.end_tick - int(memory.starts[0])) // _RESOLUTION, 1)
        order = np.lexsort((memory.starts, memory.stacks, memory.sizes, memory.addresses))
        same = np.ones(n - 1, dtype=np.bool_)
        for column in (memory.addresses, memory.sizes, memory.stacks):
            same &= column[order][1:] == column[order][:-1]
        same &= memory.starts[order][1:] - memory.ends[order][:-1] <= gap
        first = np.flatnonzero(np.concatenate([[True], ~same]))
        last = np.append(first[1:], n) - 1
        by_start = np.argsort(order[first])
        indices, ends, escapes = (
            order[first][by_start],
            memory.ends[order[last]][by_start],
            memory.escapes[order[last]][by_start],
        )
        if len(indices) < n:
            notes.append(f"equal ones that follow each other at one address within {gap:,} ticks are one rectangle")
    if len(indices) > MAX_RECTANGLES:
        area = memory.sizes[indices].astype(np.float64) * (ends - memory.starts[indices])
        most = np.sort(np.argsort(-area, kind="stable")[:MAX_RECTANGLES])
        share = float(area[most].sum() / max(float(area.sum()), 1.0))
        notes.append(f"the largest are drawn, {share:.1%} of all bytes times ticks")
        indices, ends, escapes = indices[most], ends[most], escapes[most]
    return _Drawn(indices, ends, escapes, f"{n:,} buffers, {len(indices):,} rectangles: {'; '.join(notes)}")
