from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.bench.planner_instances import generated_instances, shipped_instances
from memomalloc.bench.planners import planner_names
from memomalloc.cli import main
from memomalloc.data import check
from memomalloc.data.minimalloc_csv import write_minimalloc_csv
from memomalloc.planners import plan

pytest.importorskip("rich")


def test_smoke_run_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, table = tmp_path / "results.json", tmp_path / "table.md"
    assert main(["bench", "planners", "--smoke", "--json", str(results), "--markdown", str(table)]) == 0
    text = capsys.readouterr().out
    document = json.loads(results.read_text())
    assert [row["planner"] for row in document["rows"]] == planner_names()
    assert document["seed"] == 0
    assert document["machine"]
    for row in document["rows"]:
        assert row["planner"] in text
        assert row["note"] in ("", "not installed")
        assert row["note"] or row["ratio"] >= 1
    page = table.read_text()
    assert all(f"| {name} |" in page for name in planner_names())
    # What was measured then can be reported later.
    pytest.importorskip("jinja2")
    assert main(["bench", "report", str(results), "-o", str(tmp_path / "report")]) == 0
    assert page.splitlines()[3:] == (tmp_path / "report" / "report.md").read_text().splitlines()[3:]


def test_files_and_planners_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.csv"
    path.write_text("id,lower,upper,size\n0,0,1,64\n")
    assert main(["bench", "planners", str(path), "--planners", "bump,skyline"]) == 0
    text = capsys.readouterr().out
    assert "one.csv: 1 buffers" in text
    assert "greedy" not in text
    assert main(["bench", "planners", str(path), "--planners", "bump,magic"]) == 2


def test_a_planner_that_is_too_small_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "many.csv"
    path.write_text("id,lower,upper,size\n" + "".join(f"{i},{i},{i + 1},1\n" for i in range(1600)))
    assert main(["bench", "planners", str(path), "--planners", "min_cost_flow"]) == 0
    assert "too large" in capsys.readouterr().out


def test_cut_rectangles_are_full_and_have_the_wanted_number_of_buffers() -> None:
    problem = cut_rectangle(60, seed=5, capacity=64, num_ticks=128, unit_bytes=2)
    assert len(problem) == 60
    assert problem.lower_bound_bytes == 128
    assert int((problem.sizes * (problem.ends - problem.starts)).sum()) == 128 * 128
    again = cut_rectangle(60, seed=5, capacity=64, num_ticks=128, unit_bytes=2)
    assert (again.sizes == problem.sizes).all()
    assert len(cut_rectangle(1000, capacity=2, num_ticks=2)) == 4
    assert len(cut_rectangle(1, dropped=1.0)) == 1


def test_instances_can_be_planned() -> None:
    for _, problem in [*shipped_instances(), *generated_instances(smoke=True)]:
        check(problem, plan(problem, time_limit_s=0.1).offsets)


def test_planners_are_compared_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("id,lower,upper,size\n0,0,1,64\n")
    program = (
        "import sys; sys.modules['torch'] = None; from memomalloc.cli import main; "
        f"sys.exit(main(['bench', 'planners', {str(path)!r}, '--planners', 'auto', '--markdown', "
        f"{str(tmp_path / 'table.md')!r}]))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_ctrl_c_ends_the_comparison_and_keeps_what_was_measured(tmp_path: Path) -> None:
    # No search ends soon on this one: bump is measured, auto is interrupted, skyline is not begun.
    path, results = tmp_path / "open.csv", tmp_path / "results.json"
    write_minimalloc_csv(cut_rectangle(1200, seed=5, dropped=0.02), path)
    program = (
        "import os, signal, sys, threading; from memomalloc.cli import main; "
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start(); "
        f"sys.exit(main(['bench', 'planners', {str(path)!r}, '--planners', 'bump,auto,skyline', '--time-limit', '30', "
        f"'--json', {str(results)!r}]))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25)
    assert child.returncode == 130, child.stderr
    assert [row["planner"] for row in json.loads(results.read_text())["rows"]] == ["bump"]
