"""The figures in README are those of the results files that it names."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"MobileNetV2": "mobilenet_v2", "ResNet-50": "resnet_50", "BERT (small)": "bert_small"}
README = (ROOT / "README.md").read_text()


def _rows() -> list[list[str]]:
    lines = [line for line in README.splitlines() if re.match(r"\| [^|]+, \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _results(name: str, upstream: str = "glibc") -> dict[tuple[str, int, int], dict[str, Any]]:
    results = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    return {(row["model"], row["batch"], row["workers"]): row for row in results["rows"] if row["upstream"] == upstream}


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, int, int], dict[str, Any]]:
    return _results("demo.json")


def test_the_table_has_every_row_of_the_suite(measured: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    named = [cells[0].rsplit(", ", 1) for cells in _rows()]
    assert {(MODELS[model], int(batch), 1) for model, batch in named} == set(measured)


@pytest.mark.parametrize("cells", _rows(), ids=lambda cells: cells[0])
def test_a_row_has_the_measured_figures(cells: list[str], measured: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    model, batch = cells[0].rsplit(", ", 1)
    row = measured[MODELS[model], int(batch), 1]
    assert cells[1:] == [
        f"{_milliseconds(row['upstream_p50_ms'])} → {_milliseconds(row['planned_p50_ms'])}",
        f"**{row['ratio_median']:.2f}** ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f}, {row['num_pairs']:,})",
        f"{_faults(row['upstream_minor_faults'])} → {_faults(row['planned_minor_faults'])}",
        f"{_mebibytes(row['upstream_peak_bytes'])} → {_mebibytes(row['planned_peak_bytes'])}",
        "yes" if row["arena_bytes"] == row["lower_bound_bytes"] else "no",
    ]


def test_two_complete_runs_agree_within_their_spread(measured: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    again = _results("demo-again.json")
    assert set(again) == set(measured)
    for case, row in measured.items():
        for one, other in ((row, again[case]), (again[case], row)):
            assert one["ratio_p10"] <= other["ratio_median"] <= one["ratio_p90"], case


def test_the_first_page_has_a_measured_figure(measured: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    row = measured["mobilenet_v2", 8, 1]
    page = (ROOT / "docs" / "index.md").read_text()
    latencies = f"**{_milliseconds(row['upstream_p50_ms'])} → {_milliseconds(row['planned_p50_ms'])} ms**"
    assert f"takes {latencies} a call, a ratio of **{row['ratio_median']:.2f}**" in page
    assert f"{_faults(row['upstream_minor_faults'])} → {_faults(row['planned_minor_faults'])} page faults" in page


@pytest.mark.parametrize("upstream", ["glibc", "jemalloc", "tcmalloc", "mimalloc"])
def test_the_papers_figures_are_those_of_its_rows(upstream: str) -> None:
    sizes = [_results(name, upstream) for name in ("paper-224.json", "paper.json")]
    means = [f"{statistics.geometric_mean(row['ratio_median'] for row in rows.values()):.2f}" for rows in sizes]
    shares = [
        statistics.mean(row["upstream_kernel_ms"] / row["upstream_cpu_ms"] for row in rows.values()) for rows in sizes
    ]
    best = max((row for rows in sizes for row in rows.values()), key=lambda row: row["ratio_median"])
    page = (ROOT / "docs" / "benchmarks" / "index.md").read_text()
    (line,) = re.findall(rf"^\| {upstream} \|.*$", page, re.MULTILINE)
    _, _, *claimed = [cell.strip() for cell in line.strip("|").split("|")]
    assert claimed[:2] == means
    workers = ", two workers" if best["workers"] == 2 else ""
    assert claimed[2].startswith(
        f"{best['ratio_median']:.2f}, `{best['model']}` at {best['input_size']}, batch {best['batch']}{workers}"
    )
    assert claimed[3] == ", ".join(f"{share:.1%}".replace("%", " %") for share in shares)
    assert f"{means[0]} over {upstream}" in README


def test_nanoseconds_are_those_of_the_fast_path() -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "fast_path.json").read_text())
    (glibc,) = (result for result in document["results"] if result["upstream"] == "glibc")
    claimed = re.search(r"takes (\d+) to (\d+) ns from the plan, at any size; glibc takes (\d+) to (\d+)\.", README)
    assert claimed is not None
    replay, upstream = (
        [statistics.median(workload[name]) for workload in glibc["workloads"]] for name in ("replay_ns", "upstream_ns")
    )
    assert [int(figure) for figure in claimed.groups()] == [
        round(figure) for figure in (min(replay), max(replay), min(upstream), max(upstream))
    ]


def test_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 50


def test_the_citation_names_the_version_of_the_package() -> None:
    import memomalloc

    version = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version is not None
    assert version[1].strip("'\"") == memomalloc.__version__


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _faults(value: float) -> str:
    return "<0.1" if value < 0.1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _mebibytes(value: float) -> str:
    mebibytes = value / 2**20
    return f"{mebibytes:.0f}" if mebibytes >= 100 else f"{mebibytes:.1f}"
