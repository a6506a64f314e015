"""What a report says: tables of text, made from results once and shown as Markdown and as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from memomalloc.bench import row_text as text
from memomalloc.bench.case import MODES
from memomalloc.bench.results import Results
from memomalloc.bench.row import LOSS_RATIO, Row
from memomalloc.bench.upstream import UPSTREAMS


@dataclass(frozen=True)
class ReportTable:
    """A table with its heading.

    Attributes:
        title: the heading.
        note: what its columns mean; may be empty.
        columns: heads.
        rows: cells, one text for each column.
        text_columns: heads of the columns that hold words; all others hold figures.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[str, ...]

    def is_text(self, column: str) -> bool:
        """Whether a column is set from the left; figures are set from the right."""
        return column in self.text_columns


@dataclass(frozen=True)
class Report:
    """All that a report says in words and figures.

    Attributes:
        title: the heading of the page.
        summary: the tables to read first; the pictures follow them.
        tables: the others, in order; the last one says what was measured on.
        without_gain: every row without a gain, and what is known about why.
    """

    title: str
    summary: list[ReportTable]
    tables: list[ReportTable]
    without_gain: list[str] = field(default_factory=list)


def model_report(results: Results) -> Report:
    """The report of measured models."""
    rows = sorted(results.rows, key=_order)
    return Report(_title(rows), [_summary(rows), *_by_situation(rows)], _tables(rows, results), _without_gain(rows))


_SUITE_TITLES = {
    "demo": "The demo's models",
    "paper": "The paper's models",
    "transformers": "Transformers",
    "modern": "Models of today",
    "compilers": "Models for compilers",
    "user": "Models of your own",
}


def _title(rows: Sequence[Row]) -> str:
    """What was measured, and over which allocators."""
    suites = " and ".join(_SUITE_TITLES.get(suite, suite) for suite in dict.fromkeys(row.suite for row in rows))
    *others, last = dict.fromkeys(row.upstream for row in rows) or ("no allocator",)
    return f"{suites or 'Nothing'} over {' and '.join([*([', '.join(others)] if others else []), last])}"


def _tables(rows: Sequence[Row], results: Results) -> list[ReportTable]:
    tables = []
    for (suite, upstream), group in groupby(rows, key=lambda row: (row.suite, row.upstream)):
        measured = [row for row in group if row.ratio_median is not None]
        if measured:
            tables += [_latencies(suite, upstream, measured), _costs(suite, upstream, measured)]
    return [*tables, _conditions(results)]


def _without_gain(rows: Sequence[Row]) -> list[str]:
    return [f"{row.upstream}: {text.conclusion(row)}" for row in rows if row.verdict != "gain"]


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios."""
    with np.errstate(divide="ignore"):  # the mean with a 0 is 0
        return float(np.exp(np.mean(np.log(list(values)))))


def _order(row: Row) -> tuple[object, ...]:
    upstream = list(UPSTREAMS).index(row.upstream) if row.upstream in UPSTREAMS else len(UPSTREAMS)
    mode = MODES.index(row.mode) if row.mode in MODES else len(MODES)
    return row.suite, upstream, mode, row.model, row.input_size, row.workers, row.intra_op_threads, row.batch


def conditions_table(machine: Mapping[str, Any], versions: Mapping[str, str], others: Mapping[str, str]) -> ReportTable:
    """What something was measured on."""
    entries = {**dict(_machine_entry(*entry) for entry in machine.items()), **versions, **others}
    return ReportTable("Measured on", "", ("what", "value"), tuple(entries.items()), ("what", "value"))


def environment_entries(environment: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What a table of conditions says of the variables of each upstream's processes, where it has any."""
    return {
        upstream: " ".join(f"{name}={value}" for name, value in variables.items())
        for upstream, variables in environment.items()
        if variables
    }


def _machine_entry(name: str, value: Any) -> tuple[str, str]:
    if name == "memory_bytes" and isinstance(value, (int, float)):
        return "memory", f"{value / 2**30:.1f} GiB"
    if name == "load_average" and isinstance(value, (int, float)):
        return "load average", f"{value:.1f}"
    return name.replace("_", " "), str(value)


def _conditions(results: Results) -> ReportTable:
    repetitions = ", ".join(
        f"{name} {'none' if value == math.inf else value}" for name, value in results.repetitions.items()
    )
    others = {"seed": str(results.seed), "repetitions": repetitions, **environment_entries(results.environment)}
    return conditions_table(results.machine, results.versions, others)


def _summary(rows: Sequence[Row]) -> ReportTable:
    lines = []
    for (suite, upstream), group in groupby(rows, key=lambda row: (row.suite, row.upstream)):
        every = list(group)
        measured = [row for row in every if row.ratio_median is not None]
        ratios = [row.ratio_median for row in measured if row.ratio_median is not None]
        memory = [
            row.upstream_peak_bytes / row.planned_peak_bytes
            for row in measured
            if row.upstream_peak_bytes and row.planned_peak_bytes
        ]
        lines.append(
            (
                suite,
                upstream,
                f"{len(measured)} of {len(every)}",
                f"{geometric_mean(ratios):.2f}" if ratios else text.UNKNOWN,
                f"{max(ratios):.2f}" if ratios else text.UNKNOWN,
                f"{min(ratios):.2f}" if ratios else text.UNKNOWN,
                str(sum(ratio < LOSS_RATIO for ratio in ratios)),
                f"{geometric_mean(memory):.2f}" if memory else text.UNKNOWN,
                str(sum(ratio < 1 for ratio in memory)),
                f"{sum(row.status == 'ok' for row in every)} of {len(every)}",
            )
        )
    return ReportTable(
        "Summary",
        "Latency ratio: upstream over planned, above 1 the plan is faster; the mean is geometric. Memory ratio: growth "
        "of physical memory at the peak, upstream over planned. In order: every request served from the plan, and "
        "results equal bit for bit.",
        (
            "suite",
            "upstream",
            "rows measured",
            "mean ratio",
            "best",
            "worst",
            f"below {LOSS_RATIO}",
            "mean memory ratio",
            "more memory than upstream",
            "in order",
        ),
        tuple(lines),
        ("suite", "upstream"),
    )


def _by_situation(rows: Sequence[Row]) -> list[ReportTable]:
    """Mean ratios of all models of a suite, where it was measured in more than one situation."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        sizes.setdefault((row.suite, row.model), set()).add(row.input_size)
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.ratio_median is None:
            continue
        size = f", size {row.input_size}" if len(sizes[row.suite, row.model]) > 1 else ""
        situation = f"batch {row.batch}{size}{text.situation(row)}"
        ratios.setdefault((row.suite, situation), {}).setdefault(row.upstream, []).append(row.ratio_median)
    if len(ratios) <= len({suite for suite, _ in ratios}):
        return []
    upstreams = list(dict.fromkeys(row.upstream for row in rows))
    lines = [
        (
            *suite_and_situation,
            *(
                f"{geometric_mean(of[name]):.2f} ({len(of[name])})" if name in of else text.UNKNOWN
                for name in upstreams
            ),
        )
        for suite_and_situation, of in ratios.items()
    ]
    return [
        ReportTable(
            "By situation",
            "The geometric mean of the latency ratios of all models; in brackets, of how many.",
            ("suite", "situation", *upstreams),
            tuple(lines),
            ("suite", "situation"),
        )
    ]


_CASE_COLUMNS = ("model", "batch", "size", "workers", "threads", "mode")
_CASE_TEXTS = ("model", "mode")


def _case_cells(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        str(row.batch),
        str(row.input_size),
        str(row.workers),
        str(row.intra_op_threads),
        row.mode,
    )


def _latencies(suite: str, upstream: str, rows: Sequence[Row]) -> ReportTable:
    ms = text.milliseconds
    return ReportTable(
        f"{suite} over {upstream}: latency and memory",
        "Milliseconds of one call, upstream > planned. Memory in MiB: growth at the peak, upstream > planned; the "
        "arena; the lower bound of any arena.",
        (*_CASE_COLUMNS, "ratio", "p10 to p90", "pairs", "p50", "p99", "peak", "arena", "bound", "served", "verdict"),
        tuple(
            (
                *_case_cells(row),
                text.ratio(row.ratio_median),
                f"{text.ratio(row.ratio_p10)} to {text.ratio(row.ratio_p90)}",
                str(row.num_pairs),
                f"{ms(row.upstream_p50_ms)} > {ms(row.planned_p50_ms)}",
                f"{ms(row.upstream_p99_ms)} > {ms(row.planned_p99_ms)}",
                f"{text.mebibytes(row.upstream_peak_bytes)} > {text.mebibytes(row.planned_peak_bytes)}",
                text.mebibytes(row.arena_bytes),
                text.mebibytes(row.lower_bound_bytes),
                text.served(row),
                row.verdict.replace("_", " ") if row.status == "ok" else row.status.replace("_", " "),
            )
            for row in rows
        ),
        (*_CASE_TEXTS, "verdict"),
    )


def _costs(suite: str, upstream: str, rows: Sequence[Row]) -> ReportTable:
    return ReportTable(
        f"{suite} over {upstream}: what a call costs",
        "Per call, upstream > planned. CPU and kernel time in milliseconds, of all threads; idle: MiB still resident "
        "after the calls; -: not measured.",
        (*_CASE_COLUMNS, "calls/s", "CPU", "kernel", "page faults", "switches", "futex calls", "idle"),
        tuple(
            (
                *_case_cells(row),
                *(
                    f"{show(getattr(row, f'upstream_{what}'))} > {show(getattr(row, f'planned_{what}'))}"
                    for what, show in (
                        ("calls_per_s", text.milliseconds),
                        ("cpu_ms", text.milliseconds),
                        ("kernel_ms", text.milliseconds),
                        ("minor_faults", text.count),
                        ("voluntary_switches", text.count),
                        ("futex_calls", text.count),
                        ("steady_bytes", text.mebibytes),
                    )
                ),
            )
            for row in rows
        ),
        _CASE_TEXTS,
    )
