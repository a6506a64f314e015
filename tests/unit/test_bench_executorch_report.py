from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memomalloc.bench.executorch_report import ExecutorchResults, ExecutorchRow, executorch_report
from memomalloc.bench.results_file import load_results
from memomalloc.cli import main
from memomalloc.errors import FileFormatError

ROW = ExecutorchRow(
    model="net",
    input_size=224,
    size_unit="px",
    num_tensors=20,
    own_bytes=2000,
    planned_bytes=1600,
    lower_bound_bytes=1600,
    planning_ms=1.25,
    same_bits=True,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    results = ExecutorchResults.here()
    results.rows = [ROW, dataclasses.replace(ROW, model="other", planned_bytes=2000, same_bits=False)]
    results.save(tmp_path / "executorch.json")
    return tmp_path / "executorch.json"


def test_what_is_saved_is_read(path: Path) -> None:
    results = load_results(path)
    assert isinstance(results, ExecutorchResults)
    assert results.rows[0] == ROW


def test_the_page(path: Path) -> None:
    report = executorch_report(load_results(path))
    first, second = report.summary[0].rows
    assert first == ("net", "224 px", "20", "2,000", "1,600", "-20.0 %", "0.0 %", "1.25", "yes")
    assert second[5:] == ("+0.0 %", "25.0 %", "1.25", "**no**")
    assert "is -10.6 %" in report.summary[0].note
    assert main(["bench", "report", str(path), "-o", str(path.with_name("report"))]) == 0
    assert "| net | 224 px |" in (path.with_name("report") / "report.md").read_text()


def test_other_files_are_refused(path: Path) -> None:
    path.write_text(path.read_text().replace('"own_bytes"', '"owned"'))
    with pytest.raises(FileFormatError, match="not a results file"):
        load_results(path)


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "executorch", None)
    assert main(["bench", "executorch"]) == 2
    assert "pip install 'memomalloc[executorch]'" in capsys.readouterr().err
