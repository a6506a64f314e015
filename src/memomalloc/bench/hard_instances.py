"""Planning problems with a known best plan: a rectangle of time and memory, cut at random."""

from __future__ import annotations

import random

from memomalloc.data.problem import Problem

_Rectangle = tuple[int, int, int, int]  # first tick, last tick + 1, offset, top


def cut_rectangle(
    num_buffers: int,
    *,
    seed: int = 0,
    capacity: int = 1024,
    num_ticks: int = 1024,
    unit_bytes: int = 1024,
    time_cuts: float = 0.5,
    dropped: float = 0.0,
) -> Problem:
    """Buffers that fill a rectangle when they are placed as they were cut, which no one remembers.

    Without ``dropped`` every tick is full, the lower bound is the capacity, and it can be reached. Dropping some
    pieces leaves slack in some ticks, which makes the search harder, not easier.

    Args:
        num_buffers: at least 1; fewer if the rectangle is too small to be cut so often.
        seed: of the cuts.
        capacity: height of the rectangle in units.
        num_ticks: its width.
        unit_bytes: sizes are multiples of it.
        time_cuts: the share of cuts that separate early from late, not low from high.
        dropped: the share of pieces that are left out.
    """
    choose = random.Random(seed)
    pieces: list[_Rectangle] = [(0, num_ticks, 0, capacity)]
    for _ in range(100 * num_buffers):
        if len(pieces) >= num_buffers:
            break
        # Among the largest pieces, so that no crumbs and no giants remain.
        pieces.sort(key=_area, reverse=True)
        index = min(int(choose.expovariate(0.15)), len(pieces) - 1)
        halves = _cut(pieces[index], choose, in_time=choose.random() < time_cuts)
        if halves is not None:
            pieces[index : index + 1] = halves
    choose.shuffle(pieces)
    kept = [piece for piece in pieces if choose.random() >= dropped] or pieces[:1]
    return Problem.from_arrays(
        [(top - offset) * unit_bytes for _, _, offset, top in kept],
        [start for start, _, _, _ in kept],
        [end for _, end, _, _ in kept],
        alignment_bytes=1,
    )


def _area(piece: _Rectangle) -> int:
    return (piece[1] - piece[0]) * (piece[3] - piece[2])


def _cut(piece: _Rectangle, choose: random.Random, *, in_time: bool) -> list[_Rectangle] | None:
    start, end, offset, top = piece
    if in_time and end - start >= 2:
        tick = choose.randrange(start + 1, end)
        return [(start, tick, offset, top), (tick, end, offset, top)]
    if not in_time and top - offset >= 2:
        height = choose.randrange(offset + 1, top)
        return [(start, end, offset, height), (start, end, height, top)]
    return None
