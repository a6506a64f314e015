from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import memomalloc
from memomalloc.cli import main
from memomalloc.data import check
from memomalloc.data.minimalloc_csv import read_minimalloc_csv
from sample_traces import small_trace


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.trace"
    small_trace().save(path)
    return path


def export(trace_file: Path, to: str, *options: str) -> Path:
    out = trace_file.parent / f"out.{to}"
    assert main(["export", str(trace_file), "--to", to, str(out), *options]) == 0
    return out


def test_snapshot(trace_file: Path) -> None:
    read = pickle.loads(export(trace_file, "snapshot").read_bytes())
    assert len(read["device_traces"][0]) == 5 + 2 * 4


def test_chrome(trace_file: Path) -> None:
    assert json.loads(export(trace_file, "chrome").read_bytes())["traceEvents"]


def test_csv_is_a_problem_with_all_buffers_pinned(trace_file: Path) -> None:
    problem = read_minimalloc_csv(export(trace_file, "csv"), alignment_bytes=64)
    assert problem.pinned_offsets is not None
    check(problem, problem.pinned_offsets)


def test_the_offsets_are_those_of_a_plan_that_is_given(trace_file: Path) -> None:
    plan = memomalloc.plan(small_trace(), planner="bump")
    plan.save(trace_file.parent / "plan.json")
    problem = read_minimalloc_csv(export(trace_file, "csv", "--plan", str(trace_file.parent / "plan.json")))
    assert problem.pinned_offsets is not None
    assert problem.pinned_offsets.tolist() == plan.offsets.tolist()
