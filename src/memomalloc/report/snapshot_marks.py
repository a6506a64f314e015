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
    ranges = [mark for mark in _ranges(memory, annotations, first, end) if mark.depth < MAX_DEPTH]
    failures = [
        Mark(f"out of memory: {byte_text(oom.requested_bytes)}", oom.tick, oom.tick, 0, is_moment=True, is_failure=True)
        for oom in memory.ooms
    ]
    notes = []
    if len(ranges) > MAX_MARKS:
        notes.append(f"of {len(ranges):,} annotations the {MAX_MARKS:,} longest")
        ranges = sorted(ranges, key=lambda mark: mark.start - mark.end)[:MAX_MARKS]
    if len(failures) > MAX_MARKS:
        notes.append(f"of {len(failures):,} requests that failed the first {MAX_MARKS:,}")
        failures = failures[:MAX_MARKS]
    return tuple(sorted((*ranges, *failures), key=lambda mark: (mark.start, mark.depth))), "; ".join(notes)


def _ranges(memory: SnapshotMemory, annotations: Iterable[Annotation], first: int, end: int) -> list[Mark]:
    if not len(memory.event_times_us):
        return []
    times = np.maximum.accumulate(memory.event_times_us)
    found: list[Mark] = []
    open_: dict[str, list[tuple[int, int]]] = {}  # by name: where each began, and how many were around it
    num_open = 0
    for annotation in sorted((one for one in annotations if one.device == memory.device), key=lambda one: one.time_us):
        name, tick = annotation.name, memory.first_event_tick + int(np.searchsorted(times, annotation.time_us))
        if annotation.stage == "START":
            open_.setdefault(name, []).append((tick, num_open))
            num_open += 1
        elif annotation.stage == "END":
            start, depth = first, 0  # one without a beginning began before what the ring of events has kept
            if open_.get(name):
                start, depth = open_[name].pop()
                num_open -= 1
            found.append(Mark(name, max(start, first), min(tick, end), depth))
        elif first <= tick < end:
            found.append(Mark(name, tick, tick, 0, is_moment=True))
    for name, beginnings in open_.items():
        found += [Mark(name, max(start, first), end, depth) for start, depth in beginnings]
    # A range without an event is none of memory.
    return [mark for mark in found if mark.is_moment or mark.start < mark.end]
