from __future__ import annotations

import json
from pathlib import Path

import pytest

from memomalloc.cli import main
from memomalloc.data import Plan
from memomalloc.data.checker import check
from memomalloc.data.minimalloc_csv import read_minimalloc_csv
from memomalloc.integrations.xla import read_xla_dump

DUMPS = Path(__file__).parents[1] / "compiler_dumps"
XLA, IREE = str(DUMPS / "xla.hlo.pb"), str(DUMPS / "iree.mlir")
PACK = "  %{0} = arith.constant 64 : index\n  %p{0} = stream.resource.pack slices({{ [0, 1] = %{0} }}) : index\n"


def test_lines_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compiler", "xla", XLA]) == 0
    assert capsys.readouterr().out == (
        "trace 0: 7 buffers in 98304 bytes, the lower bound; the compiler's own plan needs 98816\n"
    )
    assert main(["compiler", "iree", IREE]) == 0
    assert capsys.readouterr().out == "@main %4: 6 buffers in 131072 bytes, the lower bound\n"


def test_json_and_the_alignment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compiler", "xla", XLA, "--alignment", "4096", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["problem"] == "trace 0"
    assert row["own_bytes"] == 98816
    assert row["arena_bytes"] % 4096 == 0


def test_the_plan_is_written(tmp_path: Path) -> None:
    (dumped,) = read_xla_dump(XLA)
    assert main(["compiler", "xla", XLA, "-o", str(tmp_path / "planned.csv")]) == 0
    written = read_minimalloc_csv(tmp_path / "planned.csv")
    assert written.ids == dumped.problem.ids
    check(dumped.problem, written.pinned_offsets)
    assert main(["compiler", "xla", XLA, "-o", str(tmp_path / "planned.json")]) == 0
    check(dumped.problem, Plan.load(tmp_path / "planned.json").offsets)


def test_of_several_problems_one_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "dump.mlir"
    dump.write_text("util.func @f() {\n" + PACK.format("a") + PACK.format("b") + "}\n")
    assert main(["compiler", "iree", str(dump)]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    out = tmp_path / "planned.csv"
    assert main(["compiler", "iree", str(dump), "-o", str(out)]) == 2
    assert "add --problem, of @f %pa, @f %pb" in capsys.readouterr().err
    assert main(["compiler", "iree", str(dump), "-o", str(out), "--problem", "@f %pb"]) == 0
    assert out.is_file()
    assert main(["compiler", "iree", str(dump), "--problem", "@g"]) == 2
    assert "there are @f %pa, @f %pb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["xla", IREE], 2, "not a whole dump of XLA"),
        (["iree", XLA], 2, "dump of IREE"),
        (["xla", "nosuch.pb"], 2, "there is no such file"),
        (["xla", XLA, "-o", "planned.tflite"], 2, "a plan is written as one of .csv, .json"),
        (["xla", XLA, "-o", "nowhere/planned.csv"], 2, "there is no folder nowhere"),
        (["xla", XLA, "--capacity", "1000"], 3, "no plan exists within 1000 bytes"),
        (["xla", XLA, "--planner", "magic"], 2, "magic"),
        (["xla", XLA, "--alignment", "0"], 2, "no alignment"),
        (["ggml", XLA], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        found = main(["compiler", *arguments])
    except SystemExit as error:  # wrong usage
        found = error.code
    assert found == status
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_tflite_says_what_it_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    assert main(["compiler", "tflite", XLA]) == 2
    assert "pip install 'memomalloc[tflite]'" in capsys.readouterr().err
