"""The examples that ``--help`` and the documentation give run as they stand."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import memomalloc
from memomalloc.cli import main
from sample_traces import small_trace

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("shtab")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "see-memory.md"
COMMAND = re.compile(r"^(memomalloc [^#\n]*)", re.MULTILINE)
EXAMPLES = [
    line.strip()
    for command in ("show", "diff", "check", "export")
    for line in (importlib.import_module(f"memomalloc.cli.{command}").__doc__ or "")
    .partition("examples:")[2]
    .split("\n")
    if line.strip()
]
EXAMPLES = sorted({*EXAMPLES, *(command.strip() for command in COMMAND.findall(PAGE.read_text()))})
PROGRAM = """
import argparse, torch
parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int)
torch.nn.Linear(8, 8)(torch.ones(parser.parse_args().batch, 8))
"""


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, scale in (("trace.jsonl.gz", 1), ("before.jsonl.gz", 1), ("after.jsonl.gz", 2)):
        small_trace(scale).save(name)
    for name, scale in (("plan.json", 1), ("before.json", 1), ("after.json", 2)):
        memomalloc.plan(small_trace(scale)).save(name)
    Path("inference.py").write_text(PROGRAM)
    before = set(tmp_path.iterdir())
    program, *arguments = shlex.split(example)
    assert program == "memomalloc"
    assert main(arguments) == 0
    written = {path.name for path in set(tmp_path.iterdir()) - before}
    assert written == {word for word in arguments if (tmp_path / word).suffix in (".html", ".png", ".pickle")} | {
        word for word in arguments if word in ("trace.json", "buffers.csv", "recorded.jsonl.gz")
    }
