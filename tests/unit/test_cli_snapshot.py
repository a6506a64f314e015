"""Snapshots of GPUs on the command line."""

from __future__ import annotations

import json
import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memomalloc
from caching_allocator import MIB, CachingAllocator, stack, train, write
from memomalloc.cli import main
from memomalloc.data.minimalloc_csv import read_minimalloc_csv


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the snapshot of a training, and one of a longer training with a second pool."""
    monkeypatch.chdir(tmp_path)
    small, large = CachingAllocator(), CachingAllocator()
    train(small)
    train(large, num_steps=9)
    with large.private_pool((2, 1)):
        large.alloc(MIB, frames=stack(70))
    write(tmp_path / "small.pickle", small)
    write(tmp_path / "large.pickle", large, protocol=5)
    return tmp_path


def ran(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    return capsys.readouterr().out


def found(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    return json.loads(ran(capsys, *arguments, "--json", status=status))


def test_show_gives_the_account_of_each_memory(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (summary,) = found(capsys, "show", "large.pickle")["snapshots"]
    assert [memory["memory"] for memory in summary["memories"]] == ["0", "0:2.1"]
    first = summary["memories"][0]
    assert first["peak"]["fragmentation_bytes"] == first["peak"]["reserved_bytes"] - first["peak"]["allocated_bytes"]
    assert first["period"]["num_repetitions"] == 8
    (summary,) = found(capsys, "show", "large.pickle", "--memory", "0:2.1")["snapshots"]
    assert [memory["name"] for memory in summary["memories"]] == ["device 0, pool (2, 1)"]
    assert len(found(capsys, "show", "small.pickle", "large.pickle")["snapshots"]) == 2


def test_show_prints_tables(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    out = ran(capsys, "show", "large.pickle", "--top", "2")
    for text in (
        "fragmentation",
        "lower bound",
        "What repeats",
        "inactive split blocks",
        "by source",
        "Never freed",
        "and 5 more",
    ):
        assert text in out, text


def test_show_draws_the_map(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "show", "small.pickle", "--html", "map.html")
    ran(capsys, "show", "small.pickle", "--html", "step.html", "--period")
    ran(capsys, "show", "small.pickle", "large.pickle", "--html", "both.html")
    whole, step = (Path(name).read_text() for name in ("map.html", "step.html"))
    assert "real addresses" in whole
    assert '"reserved":{' in whole
    assert len(step) < len(whole)
    pytest.importorskip("matplotlib")
    ran(capsys, "show", "small.pickle", "--png", "map.png")
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")
    (summary,) = found(capsys, "show", "small.pickle", "--html", "again.html")["snapshots"]
    assert summary["memories"][0]["period"]["saved_bytes"] > 0
    assert Path("again.html").exists()
    assert "--html" in found(capsys, "show", "small.pickle", "--period", status=2)["error"]


def test_diff_says_what_grew(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, "diff", "small.pickle", "large.pickle", "--by", "source")
    assert {figure["name"] for figure in result["figures"]} >= {"fragmentation at the peak", "reserved at most"}
    assert result["changes"][0]["buffers_after"] > result["changes"][0]["buffers_before"]
    pytest.importorskip("rich")
    assert "fragmentation" in ran(capsys, "diff", "small.pickle", "large.pickle")
    memomalloc.plan(memomalloc.read_snapshot("small.pickle").largest.trace).save("plan.json")
    assert main(["diff", "small.pickle", "plan.json"]) == 2


def test_plan_of_the_whole_and_of_a_step(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = found(capsys, "plan", "small.pickle", "-o", "plan.json")
    step = found(capsys, "plan", "small.pickle", "--period")
    assert (whole["num_buffers"], step["num_buffers"]) == (80, 12)
    assert whole["arena_bytes"] == whole["lower_bound_bytes"] > step["arena_bytes"]
    assert memomalloc.Plan.load("plan.json").alignment_bytes == 512
    aligned = found(capsys, "plan", "small.pickle", "--alignment", "4096")
    assert aligned["lower_bound_bytes"] > whole["lower_bound_bytes"]
    assert found(capsys, "plan", "large.pickle", "--memory", "0:2.1")["num_buffers"] == 1
    assert (
        "nothing repeats" in found(capsys, "plan", "large.pickle", "--memory", "0:2.1", "--period", status=2)["error"]
    )


def test_check_is_for_continuous_integration(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, "check", "large.pickle", "--max-bytes", "1GiB")
    assert [row["fits"] for row in result["memories"]] == [True, True]
    result = found(capsys, "check", "large.pickle", "--max-bytes", "10MiB", status=1)
    assert [row["fits"] for row in result["memories"]] == [False, True]
    assert "valid; 80 buffers" in ran(capsys, "check", "small.pickle")
    whole = Path("small.pickle").read_bytes()
    Path("cut.pickle").write_bytes(whole[:-100])
    assert "truncated" in found(capsys, "check", "cut.pickle", status=2)["error"]


def test_export_to_other_formats(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for to in ("chrome", "csv", "trace", "snapshot"):
        ran(capsys, "export", "small.pickle", "--to", to, f"out.{to}")
    memory = memomalloc.read_snapshot("small.pickle").largest
    assert memomalloc.Trace.load("out.trace").origins == memory.trace.origins
    problem = read_minimalloc_csv("out.csv")
    assert len(problem) == len(memory)
    assert json.loads(Path("out.chrome").read_text())["traceEvents"]
    again = memomalloc.read_snapshot("out.snapshot").largest
    assert again.trace.peak_live_bytes == memory.trace.peak_live_bytes
    # As they were: the distances of what lies in one segment are the same.
    assert again.addresses[1] - again.addresses[0] == memory.addresses[1] - memory.addresses[0]
    assert pickle.loads(Path("out.snapshot").read_bytes())["device_traces"]


def test_what_makes_no_sense_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no memory" in found(capsys, "show", "small.pickle", "--memory", "7", status=2)["error"]
    memomalloc.read_snapshot("small.pickle").largest.trace.save("small.trace")
    for command in (["show"], ["plan"]):
        assert "for snapshots" in found(capsys, *command, "small.trace", "--memory", "0", status=2)["error"]
    assert main(["export", "small.trace", "--to", "csv", "x.csv", "--memory", "0"]) == 2
    memomalloc.plan(memomalloc.Trace.load("small.trace")).save("plan.json")
    assert "for snapshots" in found(capsys, "check", "plan.json", "--memory", "0", status=2)["error"]
    Path("evil.pickle").write_bytes(b"\x80\x04cos\nsystem\n(S'touch here'\ntR.")
    for command in (["show"], ["plan"], ["check"], ["diff", "small.pickle"]):
        assert "do not unpickle" in found(capsys, *command, "evil.pickle", status=2)["error"]
    assert not Path("here").exists()


def test_several_memories_are_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "large.pickle", "--json"]) == 0
    assert "--memory 0, the largest" in capsys.readouterr().err


def test_names_from_a_file_do_no_harm_on_a_terminal(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    allocator = CachingAllocator()
    allocator.alloc(MIB, frames=[("/x/\x1b[31m[red].py", 1, "f\u202e")])
    write(files / "names.pickle", allocator)
    out = ran(capsys, "show", "names.pickle")
    assert "\x1b" not in out
    assert "\\x1b[31m[red].py:1" in out


def test_standard_input(files: Path) -> None:
    with Path("small.pickle").open("rb") as file:
        shown = subprocess.run(
            [sys.executable, "-m", "memomalloc", "show", "-", "--json"], stdin=file, capture_output=True, check=True
        )
    assert json.loads(shown.stdout)["snapshots"][0]["num_events"] == 230


def test_the_example_reports(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_snapshot.py", "large.pickle"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "gpu_snapshot.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "device 0: 28.0 MiB reserved for 8.52 MiB at the peak, 19.5 MiB of it fragmentation" in out
    assert "would save 21.5 MiB" in out
    assert "pool (2, 1)" in out
