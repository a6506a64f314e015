"""Placements of ``benchmarks/locality.py``: valid, and what they say they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import memomalloc
from memomalloc.data import Problem

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "locality.py"


@pytest.fixture(scope="module")
def locality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["locality"] = module
    spec.loader.exec_module(module)
    return module


def plan_of(sizes: list[int], starts: list[int], ends: list[int]) -> memomalloc.Plan:
    return memomalloc.plan(Problem.from_arrays(sizes, starts, ends, alignment_bytes=64))


@pytest.mark.parametrize("seed", range(20))
def test_every_placement_is_valid(locality: ModuleType, seed: int) -> None:
    random = np.random.default_rng(seed)
    starts = random.permutation(60)
    plan = plan_of(
        (64 * random.integers(1, 2000, 60)).tolist(),
        starts.tolist(),
        (starts + random.integers(1, 12, 60)).tolist(),
    )
    for name in locality.PLACEMENTS:
        moved = locality.placed(plan, name)  # which checks it
        assert moved.arena_bytes >= plan.lower_bound_bytes


def test_the_bytes_that_were_freed_last_come_first(locality: ModuleType) -> None:
    # Two side by side; the second is freed last, and there the third lies.
    plan = plan_of([64, 64, 64], [0, 1, 4], [2, 3, 5])
    offsets = locality.hottest_first(plan)
    assert offsets[2] == offsets[1] != offsets[0]


def test_small_ones_lie_below_large_ones(locality: ModuleType) -> None:
    plan = plan_of([2**20, 64, 2**20, 128], [0, 1, 2, 3], [4, 5, 6, 7])
    offsets = locality.small_apart(plan)
    assert max(offsets[[1, 3]]) < min(offsets[[0, 2]])


def test_neighbours_have_other_places_in_their_pages(locality: ModuleType) -> None:
    plan = plan_of([4096] * 5, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert len(set(locality.coloured(plan) % 4096)) == 5


def test_means_are_over_models(locality: ModuleType) -> None:
    rows = [
        {"model": model, "placement": placement, "cycles": cycles}
        for model, placement, cycles in (("a", "auto", 10), ("a", "bump", 20), ("b", "auto", 10), ("b", "bump", 80))
    ]
    assert locality.mean_cycles(rows, "bump") == pytest.approx(4)
