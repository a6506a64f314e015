"""Placements of ``benchmarks/locality.py``: valid, and what they say they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import memomalloc
from memomalloc.bench.locality import Locality, LocalityResults, locality_report
from memomalloc.bench.results_file import load_results
from memomalloc.cli import main
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


def counted(model: str, placement: str, cycles: int) -> Locality:
    return Locality(model, 64, placement, 2**20, 10, cycles // 2, cycles // 4, cycles // 8, cycles)


@pytest.fixture
def results() -> LocalityResults:
    results = LocalityResults.here(first_level_bytes=2**15, last_level_bytes=2**20)
    results.rows = [
        *(counted("a", "auto", 1000), counted("a", "bump", 2000), counted("a", "skyline", 1004)),
        *(counted("b", "auto", 1000), counted("b", "bump", 8000), counted("b", "skyline", 988)),
    ]
    return results


def test_means_are_over_models(results: LocalityResults) -> None:
    assert results.mean_cycles("bump") == pytest.approx(4)
    assert results.best() == ("skyline", pytest.approx((1.004 * 0.988) ** 0.5))
    assert results.mean_cycles("none such") is None


def test_the_page_says_whether_a_placement_is_worth_it(results: LocalityResults) -> None:
    assert locality_report(results).summary[0].note.startswith("No placement gains 1 % in the mean (the best, skyline:")
    results.rows[-1] = counted("b", "skyline", 900)
    assert locality_report(results).summary[0].note.startswith("The placement skyline costs 4.9 % fewer cycles")
    results.rows = []
    assert locality_report(results).summary[0].note.startswith("Nothing was compared.")


def test_what_is_saved_is_read_and_becomes_a_page(results: LocalityResults, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    path = tmp_path / "locality.json"
    results.save(path)
    assert load_results(path) == results
    assert main(["bench", "report", str(path), "-o", str(tmp_path / "report")]) == 0
    assert "| bump | 4.0000 | 2.0000 | 8.0000 |" in (tmp_path / "report" / "report.md").read_text()
