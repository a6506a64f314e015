"""Results files: what is kept, and what is refused."""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path

import pytest

from memomalloc.bench.case import Case
from memomalloc.bench.machine import VECTORS
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.results import Results
from memomalloc.bench.results_file import load_results
from memomalloc.bench.row import Row, latency_figures
from memomalloc.cli.results_output import resumed
from memomalloc.errors import FileFormatError

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
CASE = Case("demo", "m", 1, 32)


def results_with(*rows: Row) -> Results:
    results = Results.here(seed=3, repetitions={"budget_s": 1.0})
    results.rows += rows
    return results


def test_results_survive_their_file(tmp_path: Path) -> None:
    row = Row.of_case(
        CASE, status="ok", samples={"upstream_ms": [1.5], "planned_ms": [1.0]}, **latency_figures([1.5], [1.0])
    )
    results = results_with(row, Row.of_case(CASE, status="failed", error="no"))
    results.environment["jemalloc"] = {"LD_PRELOAD": "libjemalloc.so.2"}
    results.save(tmp_path / "r.json")
    assert load_results(tmp_path / "r.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_the_file_says_what_it_was_measured_on(tmp_path: Path) -> None:
    results_with(Row.of_case(CASE, status="failed")).save(tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert set(document) == {
        "format",
        "version",
        "machine",
        "versions",
        "seed",
        "repetitions",
        "environment",
        "rows",
    }
    assert document["machine"]["num_cores"] >= 1
    assert document["machine"]["vector_instructions"] in VECTORS
    assert "?" not in document["machine"]["processor_model"] or platform.machine() != "x86_64"
    assert document["versions"]["python"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"format": "memomalloc-results", "version": 99}',
        '{"format": "memomalloc-results", "version": 1, "machine": 1}',
        '{"format": "memomalloc-results", "version": 1, "machine": {}, "versions": {}, "seed": 0, "repetitions": {}, '
        '"environment": {}, "rows": [{"model": "m"}]}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"r\.json"):
        load_results(path)


def test_results_of_planners_are_told_from_those_of_models(tmp_path: Path) -> None:
    planned = PlannerResults.here(time_limit_s=1.0, seed=0)
    planned.save(tmp_path / "p.json")
    assert load_results(tmp_path / "p.json") == planned
    args = argparse.Namespace(output=tmp_path / "p.json", resume=True)
    with pytest.raises(FileFormatError, match="not of models"):
        resumed(args, results_with(), of="models")


def test_no_limit_is_null_in_the_file(tmp_path: Path) -> None:
    results = Results.here(seed=3, repetitions={"budget_s": 1.0, "whole_row_s": math.inf})
    results.save(tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert document["repetitions"] == {"budget_s": 1.0, "whole_row_s": None}
    assert load_results(tmp_path / "r.json") == results


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_results_of_the_repository_are_json(path: Path) -> None:
    json.loads(path.read_text(), parse_constant=pytest.fail)
