from __future__ import annotations

import json
from pathlib import Path

import pytest

import memomalloc
from memomalloc.cli import main
from sample_traces import MIB, small_trace


@pytest.fixture
def plan_file(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    memomalloc.plan(small_trace()).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 0),
        (["--max-bytes", str(7 * MIB)], 0),
        (["--max-bytes", "7MiB"], 0),
        (["--max-bytes", str(7 * MIB - 1)], 1),
        (["--max-bytes", "1"], 1),
    ],
)
def test_the_arena_may_be_as_large_as_allowed(
    plan_file: str, options: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", plan_file, *options]) == status
    captured = capsys.readouterr()
    assert bool(captured.out) == (status == 0)
    assert bool(captured.err) == (status == 1)


def test_machines_are_told_both(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", plan_file, "--max-bytes", "1MiB", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["arena_bytes"], found["max_bytes"], found["fits"]) == (7 * MIB, MIB, False)


def test_a_damaged_plan_is_refused(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(plan_file)
    path.write_text(path.read_text().replace('"starts": [0', '"starts": [1').replace('"starts":[0', '"starts":[1'))
    assert main(["check", plan_file]) == 2
    assert "checksum" in capsys.readouterr().err


def test_no_size_is_wrong_usage(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", plan_file, "--max-bytes", "lots"])
    assert ended.value.code == 2
    assert "write it like 64MiB" in capsys.readouterr().err
