"""Planning problems of the shapes that lifetimes have in programs, of any number of buffers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from memomalloc.data.problem import Problem


def fifo(num_buffers: int, *, seed: int = 0) -> Problem:
    """Random sizes; each lives as long as the next hundred births take: a queue."""
    starts = np.arange(num_buffers)
    sizes = np.random.default_rng(seed).integers(1, 20_000, num_buffers)
    return _problem(sizes, starts, starts + min(100, num_buffers))


def staircase(num_buffers: int, *, seed: int = 0) -> Problem:
    """Sizes that climb by 64 bytes, sixteen times, from a number on that the seed gives; fifty live at a time."""
    starts = np.arange(num_buffers)
    sizes = 1000 + 64 * ((starts + seed) % 16)
    return _problem(sizes, starts, starts + min(50, num_buffers))


def pipeline(num_buffers: int, *, seed: int = 0) -> Problem:
    """Eight births a stage, each needed for one to four stages."""
    random = np.random.default_rng(seed)
    starts = np.arange(num_buffers) // 8
    return _problem(1024 * random.integers(1, 64, num_buffers), starts, starts + random.integers(1, 5, num_buffers))


def few_sizes(num_buffers: int, *, seed: int = 0) -> Problem:
    """Four sizes, lifetimes of up to sixty ticks, five births a tick."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, num_buffers // 5 + 1, num_buffers)
    return _problem(
        random.choice([64, 192, 320, 4096], num_buffers), starts, starts + random.integers(1, 60, num_buffers)
    )


def mixed_alignment(num_buffers: int, *, seed: int = 0) -> Problem:
    """Alignments of 1, 64, 256 and 4096 bytes, sizes that are multiples of few of them, five births a tick."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, num_buffers // 5 + 1, num_buffers)
    return _problem(
        random.choice([64, 100, 1000, 4096, 10_000], num_buffers),
        starts,
        starts + random.integers(1, 40, num_buffers),
        random.choice([1, 64, 256, 4096], num_buffers),
    )


def short(num_buffers: int, *, seed: int = 0) -> Problem:
    """Random sizes, lifetimes within fifty ticks, a birth a tick."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, num_buffers, num_buffers)
    return _problem(random.integers(1, 10**6, num_buffers), starts, starts + random.integers(1, 50, num_buffers))


def heavy_tailed(num_buffers: int, *, seed: int = 0) -> Problem:
    """Most lifetimes short, a few very long."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, num_buffers, num_buffers)
    widths = 1 + np.minimum(num_buffers, random.pareto(1.0, num_buffers) * 3).astype(np.int64)
    return _problem(random.integers(1, 10**6, num_buffers), starts, starts + widths)


def nested(num_buffers: int, *, seed: int = 0) -> Problem:
    """What is born first dies last, as in forward and backward passes; short ones between."""
    random = np.random.default_rng(seed)
    births = np.arange(num_buffers)
    deaths = np.where(births % 2 == 0, 2 * num_buffers - births, births + 1 + random.integers(0, 29, num_buffers))
    return _problem(random.integers(1, 10**6, num_buffers), births, deaths)


def unrelated(num_buffers: int, *, seed: int = 0) -> Problem:
    """Any lifetimes and sizes: a third of all live at a time."""
    random = np.random.default_rng(seed)
    ticks = random.integers(0, 4 * num_buffers, (2, num_buffers))
    return _problem(random.integers(1, 10**6, num_buffers), ticks.min(axis=0), ticks.max(axis=0) + 1)


FAMILIES: dict[str, Callable[..., Problem]] = {
    "fifo": fifo,
    "staircase": staircase,
    "pipeline": pipeline,
    "few-sizes": few_sizes,
    "mixed-alignment": mixed_alignment,
    "short": short,
    "heavy-tailed": heavy_tailed,
    "nested": nested,
    "unrelated": unrelated,
}
"""By name; each takes the number of buffers and a seed."""


def _problem(
    sizes: ArrayLike,
    starts: ArrayLike,
    ends: ArrayLike,
    alignments: ArrayLike | None = None,
) -> Problem:
    return Problem.from_arrays(sizes, starts, ends, alignment_bytes=1, alignments=alignments)
