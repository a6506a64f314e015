"""Whatever goes wrong in a command is one line on stderr that says what helps, with a status that --debug keeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

import memomalloc
from memomalloc.cli import main, make_parser
from sample_traces import small_trace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with some files."""
    monkeypatch.chdir(tmp_path)
    small_trace().save("net.trace")
    memomalloc.plan(small_trace()).save("net.json")
    memomalloc.plan(small_trace(scale=2)).save("twice.json")
    Path("exists.json").write_text("{}")
    Path("fails.py").write_text("def f():\n    raise ValueError('[bracketed]\\nin two lines')\n\nf()\n")
    return tmp_path


ERRORS = {
    "show net.trace --png map.xyz": "map.xyz: a picture is written as one of .png, .svg, .pdf",
    "show net.trace --html nowhere/map.html": "nowhere/map.html: there is no folder nowhere",
    "show net.trace --png nowhere/map.png": "nowhere/map.png: there is no folder nowhere",
    "show twice.json --trace net.trace": "not made from this trace",
    "show fails.py": "fails.py failed (ValueError: [bracketed] in two lines) at line 2",
    "export net.trace --to csv out.csv --plan twice.json": "not made from this trace",
    "export net.trace --to csv nowhere/out.csv": "nowhere/out.csv: there is no folder nowhere",
    "export net.trace --to magic out": "invalid choice: 'magic'",
    "check nosuch.json": "nosuch.json",
    "check net.json --max-bytes 64": "lower bound",
    "diff net.trace nosuch": "nosuch",
    "plan nosuch.csv": "nosuch.csv",
    "run nosuch.py": "there is no such file",
    "doctor nosuch.py": "nosuch.py is no file",
    "bench report nosuch.json": "nosuch.json: No such file or directory; name a file that `memomalloc bench models",
    "bench report exists.json": "not a results file",
    "bench report exists.json --markdown nowhere/r.md": "there is no folder nowhere",
    "bench models -o exists.json": "exists.json: exists: go on with it with --resume",
    "bench models -o nowhere/r.json": "nowhere/r.json: there is no folder nowhere",
    "bench models --suite user -o r.json": "--model module:function",
    "bench models --suite user --model json:dumps,json:nosuch -o r.json": "cannot find json:nosuch",
    "bench models --upstream magic -o r.json": "'magic' is none of glibc",
    "bench models": "the following arguments are required: --output/-o; see `memomalloc bench models --help`",
    "demo --json nowhere/r.json": "there is no folder nowhere",
    "completion fish": "invalid choice: 'fish'",
    "magic": "invalid choice: 'magic'",
}


def status_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("command", ERRORS)
def test_an_error_is_one_line(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    before = sorted(folder.iterdir())
    status = status_of(command.split())
    captured = capsys.readouterr()
    assert status == (1 if command.startswith("check net.json") else 2)
    assert captured.out == ""
    assert captured.err.startswith("memomalloc: error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert ERRORS[command] in captured.err
    assert sorted(folder.iterdir()) == before


def test_debug_shows_where_and_keeps_the_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "show", "nosuch.trace"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.splitlines()[-1].startswith("memomalloc: error: ")


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


@pytest.mark.parametrize("command", list(commands(make_parser())), ids=lambda command: command.prog)
def test_every_help_has_examples(command: argparse.ArgumentParser) -> None:
    if command.prog != "memomalloc demo":  # that is its own example
        head, _, examples = command.format_help().partition("\nexamples:\n  ")
        assert head
        assert examples.startswith("memomalloc ")
