from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memomalloc import DeviceBuffer, DeviceMemory, DevicePlan, DeviceProblem, Place, plan_device
from memomalloc.cli import main
from memomalloc.errors import FileFormatError

PROBLEM = DeviceProblem.of(
    [DeviceMemory("sram", 256, bank_bytes=64), DeviceMemory("gpu", chunk_bytes=4096, cost_per_byte=1)],
    [
        DeviceBuffer("wörter", 128, ((0, 9),), 64, costs={"sram": 0, "gpu": 1000}),
        DeviceBuffer("ping", 48, ((0, 2), (4, 6)), 16),
        DeviceBuffer("pong", 48, ((0, 2), (3, 6, 0, 16)), 16),
        DeviceBuffer("left", 64, ((0, 3),)),
        DeviceBuffer("right", 64, ((1, 3),)),
        DeviceBuffer("stack", 32, ((0, 9),), pin=Place("gpu", 32, 1)),
    ],
    aliases=[{"left": 0, "right": 64}],
    disjoint=[("wörter", "left")],
    different_banks=[("ping", "pong")],
)


def test_a_problem_and_its_plan_survive_files(tmp_path: Path) -> None:
    for name in ("problem.json", "problem.json.gz"):
        PROBLEM.save(tmp_path / name)
        found = DeviceProblem.load(tmp_path / name)
        for field in ("memories", "buffers", "aliases", "disjoint", "different_banks"):
            assert getattr(found, field) == getattr(PROBLEM, field)
    planned = plan_device(PROBLEM)
    planned.save(tmp_path / "plan.json")
    loaded = DevicePlan.load(tmp_path / "plan.json", PROBLEM)
    assert loaded.by_id() == planned.by_id()
    for field in ("cost", "lower_bound_cost", "proven_cheapest", "proven_optimal", "elapsed_s", "arena_bytes"):
        assert getattr(loaded, field) == getattr(planned, field)


def test_a_name_that_utf_8_has_not_survives_files(tmp_path: Path) -> None:
    problem = DeviceProblem.of(
        [DeviceMemory("m\ud800")], [DeviceBuffer("b\udfff", 8, ((0, 1),)), DeviceBuffer("é", 8, ((0, 1),))]
    )
    problem.save(tmp_path / "problem.json")
    found = DeviceProblem.load(tmp_path / "problem.json")
    assert (found.memories, found.buffers) == (problem.memories, problem.buffers)
    planned = plan_device(problem)
    planned.save(tmp_path / "plan.json")
    assert DevicePlan.load(tmp_path / "plan.json", found).by_id() == planned.by_id()


def document() -> dict[str, Any]:
    return {
        "format": "memomalloc-problem",
        "version": 1,
        "memories": [{"name": "m"}],
        "buffers": [{"id": "a", "size": 3, "lifetimes": [[0, 1]]}, {"id": "b", "size": 4, "lifetimes": [[0, 1]]}],
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "not a problem file"),
        ("version", 2, "of version 2"),
        ("version", True, "of version True"),
        ("memories", {}, "memories must be a list"),
        ("memories", [3], "a memory must be an object"),
        ("memories", [{"name": "m", "size": 3}], "key 'size'; there are name, capacity_bytes"),
        ("memories", [{"capacity_bytes": 3}], "a memory has no 'name'"),
        ("memories", [{"name": "m", "capacity_bytes": "3"}], "capacity_bytes = '3'"),
        ("memories", [{"name": ["m"]}], "must be a text"),
        ("buffers", [{"id": "a", "size": 3}], "a buffer has no 'lifetimes'"),
        ("buffers", [{"id": "a", "size": 3, "lifetimes": [3]}], "lifetimes must be a list"),
        ("buffers", [{"id": "a", "size": 3, "lifetimes": [["0", 1]]}], "a tick = '0'"),
        ("buffers", [{"id": ["a"], "size": 3, "lifetimes": [[0, 1]]}], "its id must be a text"),
        ("buffers", [{"id": "a", "size": 3, "lifetimes": [[0, 1]], "costs": 3}], "must be an object"),
        ("buffers", [{"id": "a", "size": 3, "lifetimes": [[0, 1]], "pin": {"memory": "m"}}], "has no 'offset'"),
        (
            "buffers",
            [{"id": "a", "size": 3, "lifetimes": [[0, 1]], "pin": {"memory": [], "offset": 0}}],
            "may not lie",
        ),
        ("aliases", [["a", "b"]], "aliases must be an object"),
        ("aliases", [{"a": "0"}], "sub-offset of 'a' = '0'"),
        ("disjoint", [["a"]], "pairs of ids"),
        ("disjoint", [["a", ["b"]]], "no buffer"),
        ("colour", 3, "key 'colour'"),
    ],
)
def test_a_file_that_states_no_problem_is_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(document()))
    DeviceProblem.load(path)
    path.write_text(json.dumps({**document(), key: value}))
    with pytest.raises(FileFormatError, match=message):
        DeviceProblem.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("places", {"a": ["m", 0], "b": ["m", 0]}, "not a plan of this problem: two live buffers"),
        ("places", {"a": ["m", 0]}, "no place for buffer 'b'"),
        ("places", {"a": ["m", 0], "b": ["m", 3], "c": ["m", 9]}, "no buffer of the problem"),
        ("places", {"a": ["x", 0], "b": ["m", 3]}, "lies in no memory"),
        ("places", {"a": ["m", -1], "b": ["m", 3]}, "whole numbers"),
        ("places", {"a": ["m"], "b": ["m", 3]}, "must be"),
        ("cost", 1, "it says otherwise"),
        ("arena_bytes", {"m": 8}, "it says otherwise"),
        ("proven_cheapest", 1, "true or false"),
        ("elapsed_s", -1, "not negative"),
        ("lower_bound_cost", "0", "must be a number"),
    ],
)
def test_a_plan_of_another_problem_is_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    (tmp_path / "problem.json").write_text(json.dumps(document()))
    problem = DeviceProblem.load(tmp_path / "problem.json")
    path = tmp_path / "plan.json"
    plan_device(problem).save(path)
    changed = json.loads(path.read_text())
    path.write_text(json.dumps({**changed, key: value}))
    with pytest.raises(FileFormatError, match=message):
        DevicePlan.load(path, problem)


def test_commands_plan_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, planned = str(tmp_path / "problem.json"), str(tmp_path / "plan.json")
    PROBLEM.save(problem)
    assert main(["plan", problem, "-o", planned]) == 0
    assert "6 buffers in" in capsys.readouterr().out
    assert main(["plan", problem, "--warm-start", planned, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_buffers"] == 6
    assert summary["proven_cheapest"]
    assert main(["check", problem, planned]) == 0
    assert "valid; 6 buffers in" in capsys.readouterr().out
    assert main(["check", problem, planned, "--max-bytes", "1", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["fits"]
    text = Path(planned).read_text()
    assert '"wörter"' in text
    changed = json.loads(text)
    changed["places"]["wörter"] = changed["places"]["right"]
    Path(planned).write_text(json.dumps(changed))
    assert main(["check", problem, planned]) == 2


def test_what_a_command_cannot_do_with_a_device_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = str(tmp_path / "problem.json")
    PROBLEM.save(problem)
    for options, message in (
        (["--planner", "skyline"], "planned by auto alone"),
        (["--capacity", "3"], "says what each of the memories has"),
        (["-o", str(tmp_path / "plan.csv")], "written as .json"),
        (["--alignment", "16"], "has an alignment of its own"),
    ):
        assert main(["plan", problem, *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["show", problem]) == 2
    assert "`memomalloc plan` reads it" in capsys.readouterr().err
    planned = str(tmp_path / "plan.json")
    assert main(["plan", problem, "-o", planned]) == 0
    for command in ("show", "check"):
        assert main([command, planned]) == 2
        assert "`memomalloc check PROBLEM PLAN` reads it" in capsys.readouterr().err


def test_a_capacity_that_is_too_small_has_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(document()))
    assert main(["plan", str(path), "--capacity", "6"]) == 3
    assert "no plan exists" in capsys.readouterr().err
    assert main(["plan", str(path), "--capacity", "7"]) == 0


def test_a_plan_is_checked_against_its_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, planned = tmp_path / "buffers.csv", tmp_path / "planned.csv"
    problem.write_text("id,lower,upper,size\nx,0,3,10\ny,2,4,20\nz,3,5,10\n")
    assert main(["plan", str(problem), "-o", str(planned)]) == 0
    assert main(["plan", str(problem), "-o", str(tmp_path / "plan.json")]) == 0
    capsys.readouterr()
    for path in (planned, tmp_path / "plan.json"):
        assert main(["check", str(problem), str(path), "--max-bytes", "30"]) == 0
        assert "valid; 3 buffers in 30 bytes" in capsys.readouterr().out
        assert main(["check", str(problem), str(path), "--max-bytes", "29"]) == 1
        assert "no plan can do it" in capsys.readouterr().err
    planned.write_text("id,lower,upper,size,offset\nx,0,3,10,0\ny,2,4,20,5\nz,3,5,10,30\n")
    assert main(["check", str(problem), str(planned)]) == 2
    assert main(["check", str(problem), str(problem)]) == 2
    assert "a CSV file with offsets was expected" in capsys.readouterr().err


@pytest.mark.parametrize("gaps", [False, True])
def test_a_plan_is_checked_with_the_alignment_that_it_was_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gaps: bool
) -> None:
    problem, planned = str(tmp_path / "buffers.csv"), str(tmp_path / "plan.json")
    rows = ("id,lower,upper,size", "x,0,9,100", "y,1,4,50", "z,3,9,30")
    ends = (",gaps", ",3-5", ",", ",") if gaps else ("", "", "", "")
    Path(problem).write_text("".join(f"{row}{end}\n" for row, end in zip(rows, ends, strict=True)))
    assert main(["plan", problem, "--alignment", "16", "-o", planned]) == 0
    assert main(["check", problem, planned, "--alignment", "16"]) == 0
    assert main(["check", problem, planned, "--alignment", "32"]) == 2
    capsys.readouterr()
    assert main(["check", planned, "--alignment", "16"]) == 2
    assert "--alignment is of a PROBLEM" in capsys.readouterr().err


def test_a_warm_start_of_a_csv_goes_by_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, planned = tmp_path / "buffers.csv", tmp_path / "planned.csv"
    problem.write_text("id,lower,upper,size\nx,0,3,10\ny,2,4,20\n")
    assert main(["plan", str(problem), "-o", str(planned)]) == 0
    problem.write_text("id,lower,upper,size\ny,2,4,20\nnew,0,9,5\nx,0,3,10\n")
    assert main(["plan", str(problem), "--warm-start", str(planned), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["arena_bytes"] == 35
    assert main(["plan", str(problem), "--warm-start", str(problem)]) == 2
    assert "an earlier plan was expected" in capsys.readouterr().err


def test_a_memory_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "problem.json").write_text(json.dumps({**document(), "memories": [{"name": None}]}))
    with pytest.raises(FileFormatError, match="its name must be a text"):
        DeviceProblem.load(tmp_path / "problem.json")
