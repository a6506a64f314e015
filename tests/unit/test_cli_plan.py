from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memomalloc.cli import main
from memomalloc.data import Plan, Trace
from memomalloc.data.minimalloc_csv import read_minimalloc_csv
from memomalloc.planners import available

TEXT = "id,lower,upper,size\na,0,3,64\nb,1,5,100\nc,3,9,64\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "buffers.csv"
    path.write_text(TEXT)
    return path


def test_a_line_for_a_person(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path)]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "buffers.csv: 3 buffers in 164 bytes, the lower bound; skyline, 0." in line


def test_one_json_object(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--json", "--planner", "bump"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary) == [
        "planner", "num_buffers", "arena_bytes", "lower_bound_bytes", "gap", "proven_optimal", "elapsed_s"
    ]  # fmt: skip
    assert summary["planner"] == "bump"
    assert summary["arena_bytes"] == 228
    assert summary["lower_bound_bytes"] == 164
    assert summary["gap"] == pytest.approx(64 / 164)
    assert summary["proven_optimal"] is False


def test_csv_out_is_the_input_with_offsets(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "planned.csv"
    assert main(["plan", str(path), "-o", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "id,lower,upper,size,offset"
    assert [line.rsplit(",", 1)[0] for line in lines] == TEXT.splitlines()
    assert read_minimalloc_csv(out).pinned_offsets is not None


def test_json_out_is_a_plan_file(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert main(["plan", str(path), "--alignment", "64", "-o", str(out)]) == 0
    planned = Plan.load(out)
    assert planned.sizes.tolist() == [64, 128, 64]
    assert planned.alignment_bytes == 64


@pytest.mark.parametrize("options", [[], ["--alignment", "256"]])
def test_traces_are_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    trace = tmp_path / "run.trace.gz"
    Trace.from_arrays([100, 100], [0, 1], [5, 6]).save(trace)
    assert main(["plan", str(trace), "--json", "-o", str(tmp_path / "out.csv"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["arena_bytes"] == (512 if options else 256)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none.csv"], 2, "memomalloc: error: none.csv: there is no such file"),
        (["none.trace"], 2, "there is no such file"),
        (["."], 2, "folder"),
        (["{path}", "--planner", "magic"], 2, "there is no planner 'magic'"),
        (["{path}", "-o", "out.txt"], 2, "end the name in one of them"),
        (["{path}", "-o", "/none/out.csv"], 2, "/none/out.csv: there is no folder /none"),
        (["{path}", "--capacity", "100"], 3, "no plan exists within 100 bytes"),
        (["{path}", "--capacity", "170", "--planner", "bump"], 3, "no plan was found in time within 170 bytes"),
        (["{path}", "--time-limit", "-1"], 2, "time_limit_s"),
        (["{path}", "--seed", "-1"], 2, "seed"),
    ],
)
def test_what_goes_wrong(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert main(["plan", *(argument.format(path=path) for argument in arguments)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("memomalloc: error: ")


def test_bad_rows_are_located(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(TEXT + "d,9,9,1\n")
    assert main(["plan", str(path)]) == 2
    assert "buffers.csv, line 5, column upper: the lifetime [9, 9) is empty" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--capacity", "-1"], ["--capacity", "many"], ["--nonsense"]])
def test_wrong_usage(path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(path), *options])
    assert caught.value.code == 2


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "plan", "none.csv"]) == main(["plan", "none.csv"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_planners_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["planners"]) == 0
    text = capsys.readouterr().out
    for planner in available():
        assert f"\n{planner.name} (" in "\n" + text
    assert main(["planners", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [entry.name for entry in available()]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["plan", "--help"], ["planners", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_planning_needs_neither_torch_nor_rich(path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['rich'] = None; from memomalloc.cli import main; "
        f"sys.exit(main(['plan', {str(path)!r}]) or main(['planners']))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_benchmarks_ask_for_rich() -> None:
    program = (
        "import sys; sys.modules['rich'] = None; from memomalloc.cli import main; "
        "sys.exit(main(['bench', 'planners', '--smoke']))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 2
    assert "pip install 'memomalloc[cli]'" in child.stderr


@pytest.mark.parametrize("name", ["BUFFERS.CSV", "buffers.txt", "buffers"])
def test_csv_under_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_text(TEXT)
    assert main(["plan", str(tmp_path / name), "-o", str(tmp_path / "OUT.CSV")]) == 0
    assert "3 buffers in 164 bytes" in capsys.readouterr().out
    assert (tmp_path / "OUT.CSV").read_text().startswith("id,lower,upper,size,offset\n")


def test_csv_on_standard_input() -> None:
    command = [sys.executable, "-m", "memomalloc", "plan", "-", "--json"]
    child = subprocess.run(command, input=TEXT, capture_output=True, text=True, check=True)
    assert json.loads(child.stdout)["num_buffers"] == 3
    child = subprocess.run(command, input=TEXT + "d,9,9,1\n", capture_output=True, text=True)
    assert child.returncode == 2
    assert "standard input, line 5, column upper" in child.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alignment", "0"], "argument --alignment: 0 is no alignment"),
        (["--capacity", "1x"], "argument --capacity: '1x' is not a whole number of bytes"),
        (["--time-limit", "nan"], "argument --time-limit: 'nan' is not a number of seconds"),
        (["--time-limit", "1x"], "argument --time-limit: '1x' is not a number of seconds"),
    ],
)
def test_options_say_what_is_wrong(
    path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(path), *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_folder_is_named(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none" / "out.csv"
    assert main(["plan", str(path), "-o", str(out)]) == 2
    assert f"{out}: there is no folder" in capsys.readouterr().err
