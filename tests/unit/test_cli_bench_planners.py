from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from memomalloc.bench.hard_instances import cut_rectangle
from memomalloc.bench.lifetime_families import FAMILIES
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
    instances = list(dict.fromkeys(row["instance"] for row in document["rows"]))
    assert instances == ["cut-30", "fifo-40", "mixed-alignment-40"]
    assert [row["planner"] for row in document["rows"]] == planner_names() * len(instances)
    assert document["seed"] == 0
    assert document["machine"]
    for row in document["rows"]:
        assert row["planner"] in text
        assert row["note"] in ("", "not installed", "no alignments", "not found")
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


@pytest.fixture
def omnimalloc(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package of that name whose allocators stack everything; those that were asked are in the list."""
    asked: list[str] = []

    @dataclass
    class Allocation:
        id: int
        size: int
        start: int
        end: int
        offset: int = -1

    def allocator(name: str, *, fails: bool = False) -> Callable[..., Callable[[], None]]:
        def make(**_: object) -> Callable[[], None]:
            def ask() -> None:
                asked.append(name)
                if fails:
                    raise RuntimeError("the conflict relation is too dense")

            return ask

        return make

    def allocate(allocations: list[Allocation], ask: Callable[[], None]) -> list[Allocation]:
        ask()
        tops = itertools.accumulate(allocation.size for allocation in allocations)
        return [replace(a, offset=top - a.size) for a, top in zip(allocations, tops, strict=True)]

    package, allocators = ModuleType("omnimalloc"), ModuleType("omnimalloc.allocators")
    package.__dict__.update(Allocation=Allocation, allocate=allocate)
    allocators.__dict__.update(
        BestFitAllocator=allocator("best fit"),
        GreedyByAllAllocator=allocator("all", fails=True),
        SupermallocAllocator=allocator("supermalloc"),
        MinimallocAllocator=allocator("minimalloc", fails=True),
    )
    monkeypatch.setitem(sys.modules, "omnimalloc", package)
    monkeypatch.setitem(sys.modules, "omnimalloc.allocators", allocators)
    return asked


def test_planners_of_omnimalloc_run_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], omnimalloc: list[str]
) -> None:
    path, results = tmp_path / "one.csv", tmp_path / "results.json"
    path.write_text("id,lower,upper,size\n0,0,1,64\n1,1,2,64\n2,1,2,0\n")
    names = ["bench", "planners", str(path), "--planners", "omnimalloc,minimalloc", "--json", str(results)]
    assert main(names) == 0
    assert omnimalloc == ["best fit", "all", "supermalloc", "minimalloc"]
    best, refused = json.loads(results.read_text())["rows"]
    assert (best["arena_bytes"], best["ratio"], best["proven_optimal"]) == (128, 2.0, False)
    assert (refused["arena_bytes"], refused["note"]) == (None, "not found")


def test_what_is_not_installed_is_not_asked_by_default_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], omnimalloc: list[str]
) -> None:
    # omnimalloc calls MiniMalloc, but does not bring it.
    def missing(**_: object) -> None:
        raise ImportError("MinimallocAllocator requires minimalloc")

    monkeypatch.setattr(sys.modules["omnimalloc.allocators"], "MinimallocAllocator", missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "omnimalloc" else None)
    assert "omnimalloc" in planner_names()
    assert "minimalloc" not in planner_names()
    path = tmp_path / "one.csv"
    path.write_text("id,lower,upper,size\n0,0,1,64\n")
    assert main(["bench", "planners", str(path), "--planners", "minimalloc"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_planners_without_alignments_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], omnimalloc: list[str]
) -> None:
    path = tmp_path / "one.csv"
    path.write_text("id,lower,upper,size,alignment\n0,0,1,64,64\n")
    assert main(["bench", "planners", str(path), "--planners", "omnimalloc"]) == 0
    assert "no alignments" in capsys.readouterr().out
    assert not omnimalloc


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_buffers", [1, 2, 97])
def test_families_have_the_wanted_number_of_buffers(name: str, num_buffers: int) -> None:
    problem = FAMILIES[name](num_buffers, seed=3)
    assert len(problem) == num_buffers
    check(problem, plan(problem, planner="linear_scan").offsets)


def test_generated_instances_of_other_sizes() -> None:
    names = [name for name, _ in generated_instances([10, 20])]
    assert "fifo-10" in names
    assert "unrelated-20" in names


@pytest.mark.parametrize("numbers", ["", "0", "x", "1,,2", "-5", "1e3", "9999999999"])
def test_bad_numbers_of_buffers(numbers: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "planners", "--buffers", numbers])
    assert caught.value.code == 2


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
    program = f"""
import os, signal, sys, threading
from memomalloc.bench import planners
from memomalloc.cli import main

run = planners.plan_until_interrupted

def run_and_interrupt(problem, *, planner, **rest):
    if planner == "auto":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    return run(problem, planner=planner, **rest)

planners.plan_until_interrupted = run_and_interrupt
arguments = ["--planners", "bump,auto,skyline", "--time-limit", "30", "--json", {str(results)!r}]
sys.exit(main(["bench", "planners", {str(path)!r}, *arguments]))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25)
    assert child.returncode == 130, child.stderr
    assert [row["planner"] for row in json.loads(results.read_text())["rows"]] == ["bump"]
