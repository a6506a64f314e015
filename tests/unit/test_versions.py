"""What is said of versions is said once: the page, the package's requirements and what was tested agree."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from memomalloc.runtime.torch_versions import FIRST_TORCH, LAST_TESTED_TORCH, minor_version

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="runs in a checkout only")


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of ``make matrix``."""
    spec = importlib.util.spec_from_file_location("matrix_run", ROOT / "tests" / "matrix" / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_was_tested(matrix: ModuleType) -> None:
    page = matrix.PAGE.read_text(encoding="utf-8")
    shown = page.partition(matrix.BEGIN)[2].partition(matrix.END)[0].strip()
    assert shown == matrix.table(matrix.outcomes()).strip(), "run: make matrix"


def test_the_first_and_the_last_torch_are_tested_and_named(matrix: ModuleType) -> None:
    for minor in (FIRST_TORCH, LAST_TESTED_TORCH):
        assert any(minor_version(outcome.torch) == minor for outcome in matrix.outcomes())
        assert any(minor_version(pair.partition(":")[2]) == minor for pair in matrix.PAIRS)
    (first, last), *_ = re.findall(r"\| ([0-9.]+) and later \| ([0-9.]+ to [0-9.]+) \|", matrix.PAGE.read_text())
    assert minor_version(first) == FIRST_TORCH
    assert tuple(map(minor_version, last.split(" to "))) == (FIRST_TORCH, LAST_TESTED_TORCH)


def test_pip_is_told_the_first_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"torch>={FIRST_TORCH[0]}.{FIRST_TORCH[1]}" in project["optional-dependencies"]["torch"]


def test_a_report_is_counted_and_takes_the_place_of_an_earlier_one(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    (tmp_path / "page.md").write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    outcome = matrix._outcome(Path(sys.executable), matrix._counts(report), ["-n", "2", "tests/unit"])
    assert (outcome.passed, outcome.failed, outcome.skipped, outcome.tests) == (4, 3, 3, "tests/unit")
    for _ in range(2):
        matrix.keep_outcome(outcome)
    assert matrix.outcomes() == [outcome]
    page = matrix.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| `tests/unit` | 4 | 3 | 3 |" in page


def test_what_fails_is_run_again_alone_and_counts_by_that(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this test may run beside others, too
    (tmp_path / "test_some.py").write_text(
        """
import os

import pytest


def test_passes():
    pass


def test_fails():
    raise AssertionError


def test_fails_beside_others():
    assert "PYTEST_XDIST_WORKER" not in os.environ


@pytest.mark.skip
def test_is_skipped():
    pass
"""
    )
    assert matrix._run_twice(Path(sys.executable), tmp_path, ["-n", "1"]) == {"passed": 2, "failed": 1, "skipped": 1}


def test_a_row_is_corrected_by_what_failed_and_passes_now(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["tests/unit"]
    monkeypatch.setattr(matrix, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(matrix.BEGIN + matrix.END)
    (tmp_path / "3.11-2.13.0").mkdir()
    (tmp_path / "3.11-2.13.0" / "installed").touch()
    outcome = matrix._outcome(Path(sys.executable), matrix.Counter(passed=7, failed=3, skipped=1), arguments)
    monkeypatch.setattr(matrix, "_outcome", lambda *_: outcome)
    monkeypatch.setattr(matrix, "_run_tests", lambda *_: matrix.Counter(passed=1, failed=1, skipped=1))
    matrix.RESULTS.write_text("[]")
    with pytest.raises(LookupError, match="did not run before"):
        matrix._run_pair("3.11", "2.13.0", arguments, again=True)
    matrix.keep_outcome(outcome)
    corrected = matrix._run_pair("3.11", "2.13.0", arguments, again=True)
    assert (corrected.passed, corrected.failed, corrected.skipped) == (8, 1, 2)


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ("all", "all"),
        ("--ignore=tests/integration/test_demo.py", "all but for 1 file of `tests/integration`"),
        ("tests/unit tests/fault/test_fork.py", "`tests/unit`, 1 file of `tests/fault`"),
        (
            "tests/unit --ignore=tests/unit/test_trace.py --ignore=tests/unit/test_stubs.py",
            "`tests/unit` but for 2 files of `tests/unit`",
        ),
    ],
)
def test_the_page_says_which_tests_ran(matrix: ModuleType, tests: str, words: str) -> None:
    assert matrix._in_words(tests) == words


def test_an_interpreter_that_is_nowhere_is_said(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(Path, "home", lambda: Path("/nowhere"))
    with pytest.raises(FileNotFoundError, match=r"there is no python3\.99"):
        matrix._interpreter("3.99")
