"""The examples that ``--help`` and the documentation give run as they stand."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import memomalloc
from caching_allocator import MIB, CachingAllocator, train, write
from memomalloc.cli import main
from sample_traces import small_trace

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("shtab")

PAGES = [Path(__file__).resolve().parents[2] / "docs" / name for name in ("see-memory.md", "gpu-snapshots.md")]
COMMAND = re.compile(r"^(memomalloc [^#\n]*)", re.MULTILINE)
EXAMPLES = [
    line.strip()
    for command in ("show", "diff", "check", "export")
    for line in (importlib.import_module(f"memomalloc.cli.{command}").__doc__ or "")
    .partition("examples:")[2]
    .split("\n")
    if line.strip()
]
EXAMPLES = sorted({*EXAMPLES, *(command.strip() for page in PAGES for command in COMMAND.findall(page.read_text()))})
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
    for name, num_steps in (("snapshot.pickle", 6), ("before.pickle", 6), ("after.pickle", 9)):
        allocator = CachingAllocator()
        train(allocator, num_steps=num_steps)
        with allocator.private_pool((1, 0)):
            allocator.alloc(MIB)
        write(Path(name), allocator)
    Path("inference.py").write_text(PROGRAM)
    buffers = [memomalloc.DeviceBuffer(name, 64, [(start, start + 2)]) for start, name in enumerate("abc")]
    problem = memomalloc.DeviceProblem.of([memomalloc.DeviceMemory("sram", 128)], buffers)
    problem.save("problem.json")
    memomalloc.plan_device(problem).save("device_plan.json")
    before = set(tmp_path.iterdir())
    program, *arguments = shlex.split(example)
    assert program == "memomalloc"
    assert main(arguments) == 0
    written = {path.name for path in set(tmp_path.iterdir()) - before}
    outputs = {word for word in arguments if (tmp_path / word).suffix in (".html", ".png", ".pickle", ".gz")}
    outputs |= {word for word in arguments if word in ("trace.json", "buffers.csv")}
    assert written == outputs - {path.name for path in before}
