"""What a report of planners says: the arena of every planner on every instance, and the time it took."""

from __future__ import annotations

from memomalloc.bench import row_text as text
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.planners import Measurement
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, geometric_mean


def planner_report(results: PlannerResults) -> Report:
    """The tables of a report: planners down, instances across, as the paper's table of strategies has them."""
    by_instance = results.by_instance()
    instances = [
        (name, str(rows[0].num_buffers), text.mebibytes(rows[0].lower_bound_bytes))
        for name, rows in by_instance.items()
    ]
    by_planner: dict[str, dict[str, Measurement]] = {}
    for row in results.rows:
        by_planner.setdefault(row.planner, {})[row.instance] = row
    summary = ReportTable(
        "Peak",
        "The arena over the lower bound, 1 is the least there can be; * proven optimal. The mean is geometric.",
        ("planner", "mean", *by_instance),
        tuple(
            (planner, _mean(list(rows.values())), *(_peak(rows.get(name)) for name in by_instance))
            for planner, rows in by_planner.items()
        ),
        ("planner",),
    )
    tables = [
        ReportTable(
            "Time",
            "Milliseconds, with preparation and check.",
            ("planner", *by_instance),
            tuple((planner, *(_time(rows.get(name)) for name in by_instance)) for planner, rows in by_planner.items()),
            ("planner",),
        ),
        ReportTable(
            "Instances",
            "The lower bound in MiB.",
            ("instance", "buffers", "lower bound"),
            tuple(instances),
            ("instance",),
        ),
        conditions_table(
            results.machine,
            results.versions,
            {"time limit of a search, s": f"{results.time_limit_s:g}", "seed": str(results.seed)},
        ),
    ]
    return Report("Planners", [summary], tables)


def _mean(rows: list[Measurement]) -> str:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return f"{geometric_mean(ratios):.3f}" if ratios and len(ratios) == len(rows) else text.UNKNOWN


def _peak(row: Measurement | None) -> str:
    if row is None:
        return text.UNKNOWN
    if row.ratio is None:
        return row.note
    return f"{row.ratio:.3f}{'*' if row.proven_optimal else ''}"


def _time(row: Measurement | None) -> str:
    return text.UNKNOWN if row is None or row.ratio is None else text.milliseconds(row.elapsed_s * 1e3)
