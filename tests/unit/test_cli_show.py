from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import memomalloc
from memomalloc.cli import main
from sample_traces import MIB, small_trace


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a trace, its plan, the plan of another, and a CSV file."""
    small_trace().save(tmp_path / "net.trace")
    memomalloc.plan(small_trace()).save(tmp_path / "net.json")
    memomalloc.plan(small_trace(scale=2)).save(tmp_path / "twice.json")
    (tmp_path / "buffers.csv").write_text("id,lower,upper,size\na,0,4,100\nb,2,6,50\n")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    assert main(["show", *map(str, arguments), "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["placements"]
    return found


def test_a_trace_is_planned_and_summed_up(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = shown(capsys, files / "net.trace")
    assert (found["num_buffers"], found["num_escapes"], found["peak_live_bytes"]) == (5, 1, 5 * MIB)
    assert next(group["name"] for group in found["by_operator"]) == "aten::scratch"  # type: ignore[attr-defined]
    assert found["alive_at_peak"][0]["origin"]["module_path"] == "stem.conv"  # type: ignore[index]


def test_a_plan_is_shown_as_it_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = shown(capsys, files / "net.json")
    assert found["alive_at_peak"][0]["origin"] is None  # type: ignore[index]
    (found,) = shown(capsys, files / "net.json", "--trace", files / "net.trace")
    assert found["alive_at_peak"][0]["origin"] is not None  # type: ignore[index]


def test_a_csv_file_is_planned(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = shown(capsys, files / "buffers.csv")
    assert found["extent_bytes"] == 150


def test_planners_and_files_stand_side_by_side(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, files / "net.trace", "--planner", "skyline", "--planner", "bump")
    assert [placement["title"] for placement in found] == ["skyline", "bump"]
    found = shown(capsys, files / "net.json", files / "twice.json")
    assert [placement["title"] for placement in found] == ["net.json", "twice.json"]


def test_without_an_option_there_are_tables(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert main(["show", str(files / "net.trace"), "--depth", "1", "--top", "2"]) == 0
    out = capsys.readouterr().out
    for text in ("5 buffers", "By module, depth 1", "By operator", "Alive at the peak", "stem", "and 1 more"):
        assert text in out


def test_files_are_written_and_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    page, picture = files / "map.html", files / "map.png"
    assert main(["show", str(files / "net.trace"), "--html", str(page), "--png", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {page}", f"wrote {picture}"]
    assert "<title>net.trace" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("extra", "package", "option"), [("cli", "rich", "--table"), ("plot", "matplotlib", "--png=x.png")]
)
def test_what_is_missing_is_said_with_the_remedy(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    package: str,
    option: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["show", str(files / "net.trace"), option]) == 2
    assert f"pip install 'memomalloc[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.trace"], "there is no such file"),
        (["nowhere.py"], "a Python program was expected"),
        (["net.trace", "--planner", "magic"], "there is no planner 'magic'"),
        (["net.trace", "net.json", "twice.json"], "name one or two"),
        (["twice.json", "--trace", "buffers.csv"], "not valid JSON"),
        (["net.trace", "--html", "."], "is a folder"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(files)
    assert main(["show", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
