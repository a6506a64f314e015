from __future__ import annotations

import pytest

from memomalloc.cli.progress import planning_progress, reading_progress, spinner
from memomalloc.planners.planning import Progress

pytest.importorskip("rich")


def test_a_terminal_is_told_how_far_the_search_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    with planning_progress("net.trace") as progress:
        assert progress is not None
        progress(Progress(None, 2**20, 0.0))
        progress(Progress(3 * 2**20, 2**20, 2.0))
    error = capsys.readouterr().err
    assert "planning net.trace" in error
    assert "3.00 MiB so far, lower bound 1.00 MiB, 2 s" in error


def test_a_file_is_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with planning_progress("net.trace") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_without_rich_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with planning_progress("net.trace") as progress:
        assert progress is None


def test_a_name_is_shown_as_it_is_and_harms_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with reading_progress("a[red]b\x1b[2J.csv") as progress:
        assert progress is not None
        progress(2**20)
    with spinner() as tell:
        tell("running a[red]b\x1b[2J.py")
    error = capsys.readouterr().err
    assert error.count("a[red]b") >= 2
    assert "\x1b[2J" not in error
