"""What a program said of a time, in ticks of a snapshot: ranges and moments with a name, and requests that failed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from memomalloc.data.byte_text import byte_text
from memomalloc.data.snapshot import Annotation, SnapshotMemory
from memomalloc.report.placement import Mark

MAX_MARKS = 2000
MAX_DEPTH = 3
"""Ranges that are inside so many others are left out."""


def marks_of(memory: SnapshotMemory, annotations: Iterable[Annotation]) -> tuple[tuple[Mark, ...], str]:
    """The marks of a memory's history, in order, and in words which are left out.

    A range that began before the history, or ends after it, is cut off there. Without times of the events it is not
    known where annotations belong.

    Args:
        memory: of the snapshot; or a part of one.
        annotations: of the whole snapshot.
    """
    first, end = int(memory.starts[0]) if len(memory) else memory.first_event_tick, memory.end_tick
    marks = [mark for mark in _ranges(memory, annotations, first, end) if mark.depth < MAX_DEPTH]
    note = ""
    if len(marks) > MAX_MARKS:
        note = f"of {len(marks):,} annotations the {MAX_MARKS:,} longest"
        marks = sorted(marks, key=lambda mark: mark.start - mark.end)[:MAX_MARKS]
    marks += [
        Mark(f"out of memory: {byte_text(oom.requested_bytes)}", oom.tick, oom.tick, 0, is_moment=True, is_failure=True)
        for oom in memory.ooms
    ]
    return tuple(sorted(marks, key=lambda mark: (mark.start, mark.depth))), note


def _ranges(memory: SnapshotMemory, annotations: Iterable[Annotation], first: int, end: int) -> list[Mark]:
    if not len(memory.event_times_us):
        return []
    times = np.maximum.accumulate(memory.event_times_us)

    found: list[Mark] = []
    open_: list[tuple[str, int]] = []  # those around what comes next, the outermost first
    for annotation in sorted((one for one in annotations if one.device == memory.device), key=lambda one: one.time_us):
        name, tick = annotation.name, memory.first_event_tick + int(np.searchsorted(times, annotation.time_us))
        if annotation.stage == "START":
            open_.append((name, tick))
        elif annotation.stage == "END":
            depth = next((at for at in reversed(range(len(open_))) if open_[at][0] == name), None)
            # One without a beginning began before what the ring of events has kept.
            start = first if depth is None else open_.pop(depth)[1]
            found.append(Mark(name, max(start, first), min(tick, end), depth or 0))
        elif first <= tick < end:
            found.append(Mark(name, tick, tick, 0, is_moment=True))
    found += [Mark(name, max(start, first), end, depth) for depth, (name, start) in enumerate(open_)]
    # A range without an event is none of memory.
    return [mark for mark in found if mark.is_moment or mark.start < mark.end]
