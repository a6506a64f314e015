"""What a report of planners says: the arena of every planner on every instance, and the time it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from memomalloc.bench import row_text as text
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.planners import EXTERNAL, Measurement
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, geometric_mean

#: More columns are too wide for a page.
_INSTANCES_PER_TABLE = 10


def planner_report(results: PlannerResults) -> Report:
    """The tables of a report: instances down for what users take, then planners down, as in the paper's table."""
    by_instance = {name: {row.planner: row for row in rows} for name, rows in results.by_instance().items()}
    planners = list(dict.fromkeys(row.planner for row in results.rows))
    conditions = conditions_table(
        results.machine,
        results.versions,
        {"time limit of a search, s": f"{results.time_limit_s:g}", "seed": str(results.seed)},
    )
    return Report(
        "Planners",
        [_planners(planners, by_instance), _instances(planners, by_instance)],
        [*_all_figures(planners, by_instance), conditions],
    )


_Rows = Mapping[str, Mapping[str, Measurement]]


def _planners(planners: Sequence[str], by_instance: _Rows) -> ReportTable:
    lines = []
    for planner in planners:
        planned = [rows[planner] for rows in by_instance.values() if planner in rows]
        ratios = [row.ratio for row in planned if row.ratio is not None]
        lines.append(
            (
                planner,
                f"{len(ratios)} of {len(by_instance)}",
                f"{geometric_mean(ratios):.3f}" if ratios else text.UNKNOWN,
                f"{max(ratios):.3f}" if ratios else text.UNKNOWN,
                str(sum(ratio == 1 for ratio in ratios)),
                str(sum(row.proven_optimal for row in planned)),
                f"{sum(row.elapsed_s for row in planned if row.ratio is not None):.2f}",
            )
        )
    return ReportTable(
        "Summary",
        "The arena over the lower bound, 1 is the least there can be; the mean is geometric, of the instances that "
        "were planned. Seconds: of all these together.",
        ("planner", "planned", "mean", "worst", "at the bound", "proven optimal", "seconds"),
        tuple(lines),
        ("planner",),
    )


def _instances(planners: Sequence[str], by_instance: _Rows) -> ReportTable:
    """What is taken by default beside the best of everything else."""
    default, *others = planners or ["auto"]
    ours = [name for name in others if name not in EXTERNAL]
    external = [name for name in others if name in EXTERNAL]
    lines = []
    for name, rows in by_instance.items():
        first = next(iter(rows.values()))
        cells = [
            name,
            str(first.num_buffers),
            text.mebibytes(first.lower_bound_bytes),
            _peak_and_time(rows.get(default)),
        ]
        if ours:
            planned = [row for planner in ours if (row := rows.get(planner)) is not None and row.ratio is not None]
            best = min(planned, key=lambda row: (row.ratio, row.elapsed_s), default=None)
            cells += [_peak_and_time(best), "" if best is None else best.planner]
        lines.append((*cells, *(_peak_and_time(rows.get(planner)) for planner in external)))
    best_of_ours = [f"best other than {default}", "which"] if ours else []
    return ReportTable(
        "Instances",
        "The lower bound in MiB; arenas over it, * proven optimal, and the time with preparation and check.",
        ("instance", "buffers", "lower bound", default, *best_of_ours, *external),
        tuple(lines),
        ("instance", "which"),
    )


def _all_figures(planners: Sequence[str], by_instance: _Rows) -> Iterator[ReportTable]:
    names = list(by_instance)
    for first in range(0, len(names), _INSTANCES_PER_TABLE):
        some = names[first : first + _INSTANCES_PER_TABLE]
        of = f"{some[0]} to {some[-1]}" if len(some) > 1 else some[0]
        for title, note, cell in (
            ("Peak", "The arena over the lower bound, * proven optimal.", _peak),
            ("Time", "Milliseconds, with preparation and check.", _time),
        ):
            yield ReportTable(
                f"{title}: {of}",
                note,
                ("planner", *some),
                tuple((planner, *(cell(by_instance[name].get(planner)) for name in some)) for planner in planners),
                ("planner",),
            )


def _peak(row: Measurement | None) -> str:
    if row is None:
        return text.UNKNOWN
    if row.ratio is None:
        return row.note
    return f"{row.ratio:.3f}{'*' if row.proven_optimal else ''}"


def _peak_and_time(row: Measurement | None) -> str:
    return _peak(row) if row is None or row.ratio is None else f"{_peak(row)}, {_time(row)} ms"


def _time(row: Measurement | None) -> str:
    return text.UNKNOWN if row is None or row.ratio is None else text.milliseconds(row.elapsed_s * 1e3)
