from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memomalloc.bench.memory_report import Bounds, memory_report, row_text
from memomalloc.bench.memory_results import PLAIN, MemoryResults, MemoryRow
from memomalloc.bench.results_file import load_results
from memomalloc.cli import bench_memory, main
from memomalloc.errors import FileFormatError

MIB = 1 << 20


def plain(upstream: str, end: int, peak: int, trimmed: int) -> MemoryRow:
    return MemoryRow(
        "net",
        upstream,
        PLAIN,
        num_calls=7,
        end_bytes=end * MIB,
        peak_bytes=peak * MIB,
        released_bytes=end * MIB,
        trimmed_bytes=trimmed * MIB,
        output_bytes=MIB,
        cpu_s=2.0,
    )


PLANNED = dataclasses.replace(
    plain("glibc", 46, 130, 8),
    shapes="auto",
    num_recordings=2,
    served_share=0.9996,
    num_replayed=5,
    num_plans=3,
    num_regions=1,
    largest_arena_bytes=30 * MIB,
)


@pytest.fixture
def results() -> MemoryResults:
    results = MemoryResults.here(seed=0, rounds=7, smoke=False)
    results.processes = {"net": "a network of ours"}
    results.environment = {"tcmalloc": {"LD_PRELOAD": "libtcmalloc.so"}}
    results.rows = [
        plain("glibc", 100, 120, 10),
        PLANNED,
        plain("tcmalloc", 50, 140, 20),
        # Not a rival, however small.
        plain("jemalloc", 1, 2, 1),
        dataclasses.replace(plain("mimalloc", 0, 0, 0), error="ValueError: [red]it died[/red]"),
    ]
    return results


def test_bounds_are_the_best_rivals_the_formula_and_the_own_peak(results: MemoryResults) -> None:
    assert Bounds.of(PLANNED, results) == Bounds(50 * MIB, 120 * MIB, (30 + 1 + 10) * MIB, 120 * MIB)


def test_a_bound_of_what_was_not_measured_is_unknown(results: MemoryResults) -> None:
    other = dataclasses.replace(PLANNED, upstream="jemalloc", process="other")
    assert Bounds.of(other, results) == Bounds(None, None, None, None)
    results.rows = [other]
    assert memory_report(results).summary[-1].rows == (("other", "auto", "jemalloc", "-", "-", "-", "-"),)


def test_what_is_above_its_bound_is_bold(results: MemoryResults) -> None:
    table = memory_report(results).summary[-1]
    assert table.rows == (
        (
            *("net", "auto", "glibc"),
            "0.92 (46.0 / 50.0)",
            "**1.08** (130.0 / 120.0)",
            "**1.12** (46.0 / 41.0)",
            "**1.08** (130.0 / 120.0)",
        ),
    )


def test_allowances_are_allowed(results: MemoryResults) -> None:
    results.rows[1] = dataclasses.replace(PLANNED, end_bytes=43 * MIB, peak_bytes=126 * MIB)
    *_, formula, learning = memory_report(results).summary[-1].rows[0]
    assert formula == "1.05 (43.0 / 41.0)"
    assert learning == "1.05 (126.0 / 120.0)"


def test_every_row_is_in_the_table_of_its_process(results: MemoryResults) -> None:
    table = memory_report(results).summary[0]
    assert table.title == "net"
    assert table.note.startswith("A network of ours. MiB")
    assert table.rows[0] == ("glibc", "plain", "100.0", "120.0", "100.0", "10.0", "-", "-", "-", "-", "-", "1.0", "2.0")
    assert table.rows[1][6:] == ("30.0", "3", "1", "2", "99.9 %", "1.0", "2.0")
    assert table.rows[4][-1] == "ValueError: [red]it died[/red]"
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_row_in_a_line() -> None:
    assert row_text(PLANNED) == (
        "net, auto, over glibc: end 46.0, peak 130.0 MiB; 2 recordings, served 99.9 %, 1 regions"
    )


def test_what_is_saved_is_read_and_becomes_a_page(results: MemoryResults, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    path = tmp_path / "memory.json"
    results.save(path)
    assert load_results(path) == results
    assert main(["bench", "report", str(path), "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| glibc | plain | 100.0 |" in page
    assert "| net | auto | glibc |" in page
    pictures = {picture.suffix for picture in (tmp_path / "report").glob("*net*")}
    assert pictures == {".svg", ".png"}


def test_other_files_are_refused(results: MemoryResults, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    results.save(path)
    path.write_text(path.read_text().replace('"end_bytes": 104857600', '"end_bytes": "104857600"'))
    with pytest.raises(FileFormatError, match="end_bytes must be int"):
        load_results(path)


def test_the_help_names_what_there_is() -> None:
    memory_processes = pytest.importorskip("memomalloc.bench.memory_processes")
    assert tuple(memory_processes.PROCESSES) == bench_memory._PROCESSES


def test_wrong_options_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options in (["--only", "none-such"], ["--upstream", "glibc,malloc"], ["--rounds", "0"], []):
        out = [] if not options else ["-o", str(tmp_path / "out.json")]
        with pytest.raises(SystemExit) as exit_status:
            main(["bench", "memory", *options, *out])
        assert exit_status.value.code == 2
    error = capsys.readouterr().err
    assert "'none-such' is none of six-models, 25-sizes, threads" in error
    assert "'malloc' is none of glibc" in error
