from __future__ import annotations

from memomalloc.bench.planner_report import planner_report
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.planners import OMNIMALLOC, Measurement
from memomalloc.bench.report_markdown import markdown
from memomalloc.bench.report_tables import ReportTable

NUM_INSTANCES = 12


def results() -> PlannerResults:
    found = PlannerResults.here(time_limit_s=1.0, seed=0)
    arenas: dict[str, int | None] = {"auto": 100, "skyline": 110, "bump": 400, "mip": None, OMNIMALLOC: 105}
    for number in range(NUM_INSTANCES):
        for planner, arena_bytes in arenas.items():
            note = "too large" if arena_bytes is None else ""
            proven = arena_bytes == 100
            found.rows.append(Measurement(f"i{number}", 7, 100, planner, arena_bytes, 0.5, proven, note))
    return found


def rows(table: ReportTable) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_row_for_each_planner() -> None:
    by_planner = {row["planner"]: row for row in rows(planner_report(results()).summary[0])}
    assert by_planner["auto"] == {
        "planner": "auto",
        "planned": "12 of 12",
        "mean": "1.000",
        "worst": "1.000",
        "at the bound": "12",
        "proven optimal": "12",
        "seconds": "6.00",
    }
    assert (by_planner["bump"]["mean"], by_planner["bump"]["at the bound"]) == ("4.000", "0")
    assert (by_planner["mip"]["planned"], by_planner["mip"]["mean"]) == ("0 of 12", "-")


def test_a_row_for_each_instance_beside_the_best_of_ours_and_each_other_project() -> None:
    table = rows(planner_report(results()).summary[1])
    assert len(table) == NUM_INSTANCES
    assert table[0] == {
        "instance": "i0",
        "buffers": "7",
        "lower bound": "0.0",
        "auto": "1.000*, 500 ms",
        "best other than auto": "1.100, 500 ms",
        "which": "skyline",
        OMNIMALLOC: "1.050, 500 ms",
    }


def test_no_table_is_wider_than_a_page() -> None:
    report = planner_report(results())
    tables = [*report.summary, *report.tables]
    assert max(len(table.columns) for table in tables) <= 11
    peaks = [table for table in tables if table.title.startswith("Peak")]
    assert [table.title for table in peaks] == ["Peak: i0 to i9", "Peak: i10 to i11"]
    assert [column for table in peaks for column in table.columns[1:]] == [f"i{k}" for k in range(NUM_INSTANCES)]
    assert next(row for row in rows(peaks[1]) if row["planner"] == "mip")["i10"] == "too large"


def test_one_planner_and_no_results_have_reports() -> None:
    alone = results()
    alone.rows = [row for row in alone.rows if row.planner == "auto"]
    assert planner_report(alone).summary[1].columns == ("instance", "buffers", "lower bound", "auto")
    text = markdown(planner_report(PlannerResults.here(time_limit_s=1.0, seed=0)), command="x", pictures={})
    assert text.startswith("# Planners")
