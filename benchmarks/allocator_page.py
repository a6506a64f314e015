"""The tables of docs/which-allocator.md, from what was measured.

    python benchmarks/allocator_page.py            # puts them into the page
    python benchmarks/allocator_page.py --check    # says whether they are there already

In the page a table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; its words are written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from memomalloc.bench.memory_results import MemoryResults
from memomalloc.bench.report_markdown import table_text
from memomalloc.bench.report_tables import ReportTable, geometric_mean
from memomalloc.bench.results import Results
from memomalloc.bench.results_file import load_results
from memomalloc.bench.row import Row
from memomalloc.bench.row_text import UNKNOWN, mebibytes
from memomalloc.bench.service_report import groups_of
from memomalloc.bench.service_results import ServiceResults
from memomalloc.data.atomic_file import atomic_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "which-allocator.md"

#: What is measured in each results file of models.
SUITES = {
    "peers": "the demo's models",
    "paper-224": "the paper's, 224 pixels",
    "paper": "the paper's, 128 pixels",
    "transformers": "transformers",
}

_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def measured(name: str) -> dict[str, dict[tuple[object, ...], Row]]:
    """The measured rows of a results file, by allocator and situation."""
    results = load_results(RESULTS / f"{name}.json")
    assert isinstance(results, Results)
    rows: dict[str, dict[tuple[object, ...], Row]] = {}
    for row in results.rows:
        if row.ratio_median is not None:
            situation = (row.model, row.batch, row.input_size, row.workers, row.intra_op_threads, row.mode)
            rows.setdefault(row.upstream, {})[situation] = row
    return rows


def beside_glibc() -> ReportTable:
    """What each allocator gives by itself, and with plans, beside glibc as it is."""
    lines = []
    for name, what in SUITES.items():
        rows = measured(name)
        for upstream, own in rows.items():
            pairs = [(rows["glibc"][situation], row) for situation, row in own.items() if situation in rows["glibc"]]

            def mean(figure: str, of: str, pairs: list[tuple[Row, Row]] = pairs) -> str:
                return ratio_of(pairs, f"upstream_{figure}", f"{of}_{figure}")

            lines.append(
                (
                    what,
                    upstream,
                    *(
                        mean(figure, of)
                        for figure in ("p50_ms", "p99_ms", "peak_bytes")
                        for of in ("upstream", "planned")
                    ),
                )
            )
    return ReportTable(
        "",
        "",
        ("models", "allocator", "p50", "with plans", "p99", "with plans", "peak memory", "with plans"),
        tuple(lines),
        ("models", "allocator"),
    )


def ratio_of(pairs: Iterable[tuple[Row, Row]], of_one: str, of_other: str) -> str:
    """The mean of a figure of one row over that of another."""
    values = [(getattr(one, of_one), getattr(other, of_other)) for one, other in pairs]
    known = [one / other for one, other in values if one and other]
    return f"{geometric_mean(known):.2f}" if known else UNKNOWN


def gain_of_plans() -> ReportTable:
    """What plans add to each allocator, pair by pair."""
    lines = []
    for name, what in SUITES.items():
        for upstream, own in measured(name).items():
            ratios = [row.ratio_median for row in own.values() if row.ratio_median is not None]
            pairs = [(row, row) for row in own.values()]
            lines.append(
                (
                    what,
                    upstream,
                    f"{geometric_mean(ratios):.2f}",
                    f"{max(ratios):.2f}",
                    f"{sum(row.verdict == 'gain' for row in own.values())} of {len(own)}",
                    ratio_of(pairs, "upstream_p99_ms", "planned_p99_ms"),
                    ratio_of(pairs, "upstream_peak_bytes", "planned_peak_bytes"),
                )
            )
    return ReportTable(
        "",
        "",
        ("models", "over", "time", "best", "a gain in time", "p99", "peak memory"),
        tuple(lines),
        ("models", "over"),
    )


def threads() -> ReportTable:
    """What plans add where an operator has one thread, and where it has two."""
    lines = []
    for upstream, own in measured("modes").items():
        for threads in sorted({row.intra_op_threads for row in own.values()}):
            rows = [row for row in own.values() if row.intra_op_threads == threads and row.mode == "eager"]
            lines.append(
                (
                    upstream,
                    str(threads),
                    ratio_of([(row, row) for row in rows], "upstream_p50_ms", "planned_p50_ms"),
                    f"{max(row.ratio_median for row in rows if row.ratio_median):.2f}",
                )
            )
    return ReportTable("", "", ("over", "threads", "time", "best"), tuple(lines), ("over",))


def whole_processes() -> ReportTable:
    """Memory of processes with many models or sizes."""
    results = load_results(RESULTS / "memory.json")
    assert isinstance(results, MemoryResults)
    lines = [
        (
            row.process,
            row.upstream,
            "with plans" if row.is_planned else "alone",
            mebibytes(row.peak_bytes),
            mebibytes(row.end_bytes),
            mebibytes(row.released_bytes),
        )
        for row in sorted(results.rows, key=lambda row: row.process, reverse=True)
        if not row.error and row.shapes in ("plain", "auto")
    ]
    texts = ("process", "allocator", "plans")
    return ReportTable("", "", (*texts, "peak, MiB", "end", "given back on request"), tuple(lines), texts)


def services() -> ReportTable | None:
    """What services can take; None: not measured yet."""
    path = RESULTS / "service.json"
    if not path.exists():
        return None
    results = load_results(path)
    assert isinstance(results, ServiceResults)
    lines = []
    for group in groups_of(results):
        for upstream, side in group.services:
            highest = [rate for row in group.of(upstream, side) if (rate := group.highest(row)) is not None]
            if side in ("plain", "planned") and highest:
                peak, rest = (group.spread(upstream, side, name) for name in ("peak_bytes", "rest_bytes"))
                over = group.over_rival(upstream, side)
                lines.append(
                    (
                        f"{group.mix}, {group.way}",
                        upstream,
                        "with plans" if side == "planned" else "alone",
                        f"{sorted(highest)[len(highest) // 2]:.3g}",
                        UNKNOWN if over is None else f"{over.median:.2f}",
                        UNKNOWN if peak is None else mebibytes(round(peak.median)),
                        UNKNOWN if rest is None else mebibytes(round(rest.median)),
                    )
                )
    texts = ("mix", "allocator", "plans")
    columns = (*texts, "requests a second", "over tcmalloc", "peak, MiB", "at rest, MiB")
    return ReportTable("", "", columns, tuple(lines), texts)


TABLES: dict[str, Callable[[], ReportTable | None]] = {
    "beside-glibc": beside_glibc,
    "gain-of-plans": gain_of_plans,
    "threads": threads,
    "whole-processes": whole_processes,
    "services": services,
}


def filled(text: str) -> str:
    """The page with its tables as the results have them."""

    def table(found: re.Match[str]) -> str:
        made = TABLES[found[2]]()
        return found[1] + ("Not measured yet.\n" if made is None else table_text(made) + "\n") + found[3]

    return _TABLE.sub(table, text)


def main() -> int:
    """Fill the page, or say that it is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if the page would change")
    arguments = parser.parse_args()
    text = PAGE.read_text()
    new = filled(text)
    if arguments.check:
        return int(new != text)
    with atomic_file(PAGE) as file:
        file.write(new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
