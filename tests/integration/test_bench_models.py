"""``memomalloc bench models`` and ``bench report``: sessions go on whatever a model does, and can be resumed."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memomalloc.bench.results_file import load_results
from process_group import wait_until_ended

MODELS = '''
import os, signal, time
import torch

class Layers(torch.nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.calls = what, 0
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, x):
        self.calls += 1
        if self.what == 2:
            raise ValueError("this model fails: [red]see[/red] [16, 256]")
        if self.what == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == 4:
            torch.empty(1 << 50)
        if self.what == 5:
            x = x.repeat(1 + self.calls, 1)[: len(x)]
        if self.what == 6:
            time.sleep(60)
        return self.linear(torch.relu(self.linear(x))).sum()

def build(batch):
    """The batch says what goes wrong."""
    return Layers(batch), torch.randn(16, 256)
'''


def run_bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), cwd=folder, capture_output=True, text=True, check=False)


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "memomalloc", "bench", *options]


def rows_in(path: Path) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text())["rows"]
    assert isinstance(rows, list)
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "their_models.py").write_text(MODELS)
    return tmp_path


OPTIONS = ("models", "--suite", "user", "--model", "their_models:build", "--smoke", "-o", "results.json")


def test_whatever_a_model_does_is_its_row_and_the_session_goes_on(folder: Path) -> None:
    finished = run_bench(folder, *OPTIONS, "--batch", "1,2,3,4,5,6,7", "--time-limit", "10")
    assert finished.returncode == 1
    rows = {row["batch"]: row for row in rows_in(folder / "results.json")}
    assert {batch: row["status"] for batch, row in rows.items()} == {
        1: "ok",
        2: "failed",
        3: "out_of_memory",  # killed, as the kernel does it
        4: "out_of_memory",
        5: "deviated",
        6: "timed_out",
        7: "ok",
    }, finished.stdout
    assert rows[2]["error"] == "ValueError: this model fails: [red]see[/red] [16, 256]"
    assert rows[2]["error"] in finished.stdout
    assert "SIGKILL" in rows[3]["error"]
    assert "went upstream" in rows[5]["error"]
    for batch in (1, 7):
        assert rows[batch]["requests_served_share"] == 1.0
        assert rows[batch]["results_equal"] is True


def test_an_interrupted_session_is_resumed(folder: Path) -> None:
    path = folder / "results.json"
    batches = ("--batch", "1,6", "--time-limit", "20")
    with subprocess.Popen(
        command(*OPTIONS, *batches), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as session:
        deadline = time.monotonic() + 100
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(session.pid, signal.SIGINT)
        _, complaints = session.communicate(timeout=60)
    assert session.returncode == 130
    assert b"Traceback" not in complaints
    assert complaints.decode() == (
        "memomalloc: interrupted; 1 rows are in results.json: go on with the same command and --resume\n"
    )
    wait_until_ended(session.pid)
    first = rows_in(path)
    assert [row["batch"] for row in first] == [1]

    refused = run_bench(folder, *(option for option in OPTIONS if option != "--smoke"), *batches)
    assert refused.returncode == 2
    assert "--resume" in refused.stdout + refused.stderr
    resumed = run_bench(folder, *OPTIONS, "--batch", "1,7", "--time-limit", "20", "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [row["batch"] for row in rows_in(path)] == [1, 7]
    assert rows_in(path)[0] == first[0]


def test_every_model_of_the_user_is_measured(folder: Path) -> None:
    (folder / "more_models.py").write_text("from their_models import build, build as other")
    models = "their_models:build,more_models:other,more_models:build"
    finished = run_bench(folder, *OPTIONS, "--model", models, "--batch", "1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = rows_in(folder / "results.json")
    assert [row["model"] for row in rows] == ["their_models:build", "other", "more_models:build"]


def test_results_of_other_conditions_are_not_mixed(folder: Path) -> None:
    path = folder / "results.json"
    assert run_bench(folder, *OPTIONS, "--batch", "1").returncode == 0
    other = run_bench(folder, *OPTIONS, "--batch", "7", "--seed", "5", "--resume")
    assert other.returncode != 0
    assert "their seed was 0, and is 5 now" in other.stderr

    results = load_results(path)
    results.machine["load_average"] += 1.0
    results.save(path)
    assert run_bench(folder, *OPTIONS, "--batch", "1", "--resume").returncode == 0
    results.machine["processor_model"] = "family 0, model 0"
    results.save(path)
    elsewhere = run_bench(folder, *OPTIONS, "--batch", "1", "--resume")
    assert elsewhere.returncode != 0
    assert "their machine was" in elsewhere.stderr
    assert load_results(path) == results


@pytest.mark.parametrize(
    ("upstream", "library"),
    [("jemalloc", "jemalloc"), ("tcmalloc", "tcmalloc_minimal"), ("mimalloc", "mimalloc"), ("glibc-tuned", "c")],
)
def test_each_upstream_has_a_process_of_its_own(folder: Path, upstream: str, library: str) -> None:
    if ctypes.util.find_library(library) is None:
        pytest.skip(f"lib{library} is not installed")
    finished = run_bench(folder, *OPTIONS, "--batch", "1", "--upstream", upstream)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (row,) = rows_in(folder / "results.json")
    assert (row["upstream"], row["status"]) == (upstream, "ok")
    assert json.loads((folder / "results.json").read_text())["environment"][upstream]


@pytest.mark.parametrize("mode", ["torchscript", "compile", "compile-memory-planning"])
def test_ways_of_running_a_real_model(folder: Path, mode: str) -> None:
    finished = run_bench(
        folder, "models", "--suite", "demo", "--model", "bert_small", "--batch", "1", "--input-size", "8", "--smoke",
        "--mode", mode, "-o", "results.json",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (row,) = rows_in(folder / "results.json")
    assert (row["mode"], row["status"], row["requests_served_share"]) == (mode, "ok", 1.0)


def test_several_workers_have_an_arena_each(folder: Path) -> None:
    finished = run_bench(folder, *OPTIONS, "--batch", "1", "--workers", "1,3", "--intra-op-threads", "1,2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = rows_in(folder / "results.json")
    assert [(row["workers"], row["intra_op_threads"]) for row in rows] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert [row["num_arenas"] for row in rows if row["workers"] == 1] == [1, 1]
    assert all(1 <= row["num_arenas"] <= 3 for row in rows)


def test_unknown_names_are_refused(folder: Path) -> None:
    assert "mobilenet_v2" in run_bench(folder, "models", "--model", "no_such", "-o", "r.json").stderr
    assert "jemalloc" in run_bench(folder, "models", "--upstream", "no_such", "-o", "r.json").stderr
    assert "eager" in run_bench(folder, "models", "--mode", "no_such", "-o", "r.json").stderr


def test_a_report_needs_nothing_but_itself(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    run_bench(folder, *OPTIONS, "--batch", "1,2")
    finished = run_bench(folder, "report", "results.json", "--output", "out", "--markdown", "report.md")
    assert finished.returncode == 0, finished.stderr
    text = (folder / "report.md").read_text()
    assert text.startswith("# Models of your own over glibc\n")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[:2] == ["Summary", "Pictures"]
    assert headings[-1] == "Measured on"
    assert re.search(r"^\| memory \| [\d.]+ GiB \|$", text, re.MULTILINE)
    assert re.search(r"^\| load average \| \d+\.\d \|$", text, re.MULTILINE)
    assert "whole_row_s none" in text
    assert "| build | 1 | 32 |" in text
    assert "this model fails" in text
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (folder / picture).stat().st_size > 1000
    page = (folder / "out" / "report.html").read_text()
    assert "<svg" in page
    assert page.index("<svg") < page.index("Measured on")
    assert '<td class="text">build</td><td>1</td>' in page
    assert "this model fails" in page
    assert not re.search(r"(src|href)=[\"'](?!#)", page.replace('xlink:href="#', "")), "it loads something"
    assert list((folder / "out").glob("*.png"))
