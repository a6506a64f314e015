"""``memomalloc bench memory``: processes are measured over their allocators, and a session can go on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from memomalloc.bench.memory_results import MemoryResults
from memomalloc.bench.results_file import load_results


def run_bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "memomalloc",
        "bench",
        "memory",
        "--only",
        "threads",
        "--upstream",
        "glibc",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "memory.json"
    finished = run_bench("--smoke", "-o", str(path))
    assert finished.returncode == 0, finished.stderr
    assert "threads, auto, over glibc: end" in finished.stdout
    return path


def test_the_smallest_process_is_measured_and_served_from_its_plans(path: Path) -> None:
    results = load_results(path)
    assert isinstance(results, MemoryResults)
    plain, planned = results.rows
    assert (plain.shapes, planned.shapes) == ("plain", "auto")
    assert plain.num_calls == planned.num_calls == 8 * results.rounds
    assert plain.num_recordings == plain.num_replayed == plain.num_plans == 0
    assert planned.num_recordings >= 1
    assert planned.num_replayed >= 1
    assert planned.served_share == 1
    assert planned.num_plans >= 1
    assert planned.num_regions >= 1
    # Two tensors of 32 channels of 64 by 64 are alive at one time in the middle of the network.
    assert planned.largest_arena_bytes >= 2 * 32 * 64 * 64 * 4
    for row in results.rows:
        assert not row.error
        assert row.peak_bytes >= row.end_bytes
        assert row.peak_bytes > 2 * 32 * 64 * 64 * 4
        assert row.cpu_s > 0
    assert planned.end_bytes >= planned.released_bytes >= planned.trimmed_bytes


def test_a_session_goes_on_with_the_rows_that_are_left(path: Path, tmp_path: Path) -> None:
    document = json.loads(path.read_text())
    kept, left_out = document["rows"]
    half = tmp_path / "half.json"
    half.write_text(json.dumps({**document, "rows": [kept]}))
    finished = run_bench("--smoke", "--resume", "-o", str(half))
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(half.read_text())["rows"]
    assert rows[0] == kept
    assert [row["shapes"] for row in rows[1:]] == [left_out["shapes"]]


def test_what_was_measured_is_neither_replaced_nor_mixed(path: Path) -> None:
    before = path.read_text()
    finished = run_bench("-o", str(path))
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "go on with it with --resume" in finished.stderr
    finished = run_bench("-o", str(path), "--resume", "--rounds", "9")
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "cannot stand beside new ones" in finished.stderr
    assert path.read_text() == before


def test_standard_output_is_no_older_results_where_it_is_a_file(tmp_path: Path) -> None:
    # Without --smoke, which replaces whatever is there; what is measured does not matter here.
    program = """
        import sys
        from memomalloc.bench import memory_session
        from memomalloc.bench.memory_results import MemoryRow
        from memomalloc.cli import main

        def run_memory_session(cases, results, *, path, **told):
            assert path is None
            results.rows += [MemoryRow(case.process, case.upstream, case.shapes) for case in cases]

        memory_session.run_memory_session = run_memory_session
        sys.exit(main(["bench", "memory", "--only", "threads", "--upstream", "glibc", "-o", "-"]))
    """
    path = tmp_path / "results.json"
    with open(path, "w") as file:
        finished = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode == 0, finished.stderr
    assert "2 rows are in standard output" in finished.stderr
    results = load_results(path)
    assert isinstance(results, MemoryResults)
    assert [row.shapes for row in results.rows] == ["plain", "auto"]
