"""What is said of whole processes' memory: lines, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memomalloc.bench import row_text as text
from memomalloc.bench.memory_results import MemoryResults, MemoryRow
from memomalloc.bench.plots import PLANNED_COLOR, UPSTREAM_COLOR, pyplot, rendered
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, environment_entries
from memomalloc.harmless_text import harmless, markdown_text

#: The allocators of which the best is compared with: what programs have, and what they preload to be fast.
RIVALS = ("glibc", "tcmalloc", "mimalloc")
#: The end may be this much above what the formula says.
FORMULA_ALLOWANCE = 1.05
#: The peak, with all that learning takes, may be this much above that of the process without memomalloc.
LEARNING_ALLOWANCE = 1.05

_UNKNOWN = text.UNKNOWN


@dataclass(frozen=True)
class Bounds:
    """What the memory of a planned process is held against, in bytes; None: what it takes was not measured.

    Attributes:
        best_end: the least that it ends with over one of :data:`RIVALS` without memomalloc.
        best_peak: the least peak of them.
        formula: the largest arena, the outputs that live, and what the process keeps over the same allocator without
            memomalloc when all that can be given back was.
        own_peak: the peak over the same allocator without memomalloc.
    """

    best_end: int | None
    best_peak: int | None
    formula: int | None
    own_peak: int | None

    @classmethod
    def of(cls, row: MemoryRow, results: MemoryResults) -> Bounds:
        """Those of one row."""
        rivals = results.plain(row.process, RIVALS)
        own = next(iter(results.plain(row.process, [row.upstream])), None)
        return cls(
            best_end=min((rival.end_bytes for rival in rivals), default=None),
            best_peak=min((rival.peak_bytes for rival in rivals), default=None),
            formula=None if own is None else row.largest_arena_bytes + row.output_bytes + own.trimmed_bytes,
            own_peak=None if own is None else own.peak_bytes,
        )


def row_text(row: MemoryRow) -> str:
    """One row in a line."""
    if row.error:
        return f"{row.case}: {row.error}"
    line = f"{row.case}: end {text.mebibytes(row.end_bytes)}, peak {text.mebibytes(row.peak_bytes)} MiB"
    if row.is_planned:
        line += f"; {row.num_recordings} recordings, served {text.share(row.served_share)}, {row.num_regions} regions"
    return line


def memory_report(results: MemoryResults) -> Report:
    """The page: a table for each process, and one that holds them against what they may need."""
    names = list(dict.fromkeys(row.process for row in results.rows))
    return Report(
        "Memory of whole processes",
        summary=[
            *(_process_table(results, name) for name in names),
            *([_bounds_table(results)] if any(row.is_planned for row in results.rows) else []),
        ],
        tables=[_conditions(results)],
    )


def _process_table(results: MemoryResults, name: str) -> ReportTable:
    what = markdown_text(results.processes.get(name, name))
    rows = tuple(
        (
            row.upstream,
            row.shapes,
            text.mebibytes(row.end_bytes),
            text.mebibytes(row.peak_bytes),
            text.mebibytes(row.released_bytes),
            text.mebibytes(row.trimmed_bytes),
            *(
                (
                    text.mebibytes(row.largest_arena_bytes),
                    str(row.num_plans),
                    str(row.num_regions),
                    str(row.num_recordings),
                    text.share(row.served_share),
                )
                if row.is_planned
                else (_UNKNOWN,) * 5
            ),
            text.mebibytes(row.output_bytes),
            f"{row.cpu_s:.1f}",
        )
        if not row.error
        else (row.upstream, row.shapes, *[_UNKNOWN] * 10, row.error[:80])
        for row in results.rows
        if row.process == name
    )
    return ReportTable(
        name,
        f"{what[:1].upper()}{what[1:]}. MiB by which physical memory has grown over the process that had loaded its "
        "models; peak includes all that learning took. Released: outputs dropped, and `memomalloc.release()` called "
        "(the plain process as it is). Trimmed: the allocator underneath was told to give back what it can, too.",
        (
            *("upstream", "shapes", "end", "peak", "released", "trimmed", "largest arena", "plans", "regions"),
            *("recordings", "served", "outputs", "CPU, s"),
        ),
        rows,
        ("upstream", "shapes"),
    )


def _bounds_table(results: MemoryResults) -> ReportTable:
    lines = []
    for row in results.rows:
        if not row.is_planned or row.error:
            continue
        bounds = Bounds.of(row, results)
        lines.append(
            (
                row.process,
                row.shapes,
                row.upstream,
                _beside(row.end_bytes, bounds.best_end),
                _beside(row.peak_bytes, bounds.best_peak),
                _beside(row.end_bytes, bounds.formula, FORMULA_ALLOWANCE),
                _beside(row.peak_bytes, bounds.own_peak, LEARNING_ALLOWANCE),
            )
        )
    return ReportTable(
        "Beside what it may need",
        f"The planned process over another one, and in MiB both. End and peak: over the best of {', '.join(RIVALS)} "
        "without memomalloc. Formula: its end over the largest arena, outputs, and the trimmed plain process "
        f"together, at most {FORMULA_ALLOWANCE}. Learning: its peak over that of the plain process over the same "
        f"allocator, at most {LEARNING_ALLOWANCE}. Bold: more.",
        ("process", "shapes", "upstream", "end", "peak", "formula", "learning"),
        tuple(lines),
        ("process", "shapes", "upstream"),
    )


def _beside(value: int, bound: int | None, allowance: float = 1.0) -> str:
    if bound is None:
        return _UNKNOWN
    ratio = f"{value / bound:.2f}" if bound else "inf"
    ratio = f"**{ratio}**" if value > allowance * bound else ratio
    return f"{ratio} ({text.mebibytes(value)} / {text.mebibytes(bound)})"


def _conditions(results: MemoryResults) -> ReportTable:
    others = {
        "intra-op threads": "1",
        "rounds": str(results.rounds),
        "seed": str(results.seed),
        **environment_entries(results.environment),
    }
    if results.smoke:
        others["smoke"] = "yes: small inputs, whose figures mean nothing"
    return conditions_table(results.machine, results.versions, others)


def draw_memory(results: MemoryResults) -> dict[str, dict[str, bytes]]:
    """For each process a picture of ends and peaks, by allocator and policy, as PNG and SVG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    pictures = {}
    for name in dict.fromkeys(row.process for row in results.rows):
        rows = [row for row in results.rows if row.process == name and not row.error]
        if rows:
            pictures[f"Memory of the process {harmless(name)}"] = _bars(plt, rows)
    return pictures


def _bars(plt: Any, rows: list[MemoryRow]) -> dict[str, bytes]:
    """The peak as a wide bar, the end as a narrow one on it; the first row on top."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.26 * len(rows)))
    for place, row in enumerate(reversed(rows)):
        color = PLANNED_COLOR if row.is_planned else UPSTREAM_COLOR
        axes.barh(place, row.peak_bytes / text.MIB, 0.8, color=color, alpha=0.45)
        axes.barh(place, row.end_bytes / text.MIB, 0.4, color=color)
    labels = [harmless(f"{row.upstream}, {row.shapes}") for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xlabel("growth of physical memory, MiB: at the peak (wide bars), at the end (narrow)")
    return rendered(plt, figure)
