"""Tables of a report: what is put together, and what is not."""

from __future__ import annotations

from memomalloc.bench.case import Case
from memomalloc.bench.report_tables import ReportTable, model_report
from memomalloc.bench.results import Results
from memomalloc.bench.row import Row, latency_figures


def measured(case: Case, ratio: float) -> Row:
    return Row.of_case(case, status="ok", **latency_figures([ratio * 10.0] * 9, [10.0] * 9))


def summary_of(*rows: Row) -> list[ReportTable]:
    results = Results.here(seed=0, repetitions={})
    results.rows += rows
    return model_report(results).summary


def test_means_are_of_rows_in_the_same_situation() -> None:
    _, by_situation = summary_of(
        measured(Case("demo", "a", 1, 32), 1.0),
        measured(Case("demo", "b", 1, 64), 4.0),
        measured(Case("demo", "a", 8, 32, workers=2), 3.0),
        measured(Case("demo", "a", 1, 32, upstream="jemalloc"), 1.5),
        Row.of_case(Case("demo", "c", 8, 32, workers=2), status="failed", error="no"),
    )
    assert by_situation.columns == ("suite", "situation", "glibc", "jemalloc")
    assert by_situation.rows == (
        ("demo", "batch 1", "2.00 (2)", "1.50 (1)"),
        ("demo", "batch 8, 2 workers", "3.00 (1)", "-"),
    )


def test_sizes_are_told_apart_where_a_model_has_several() -> None:
    _, by_situation = summary_of(
        measured(Case("demo", "a", 1, 32), 1.25),
        measured(Case("demo", "a", 1, 64), 2.0),
        measured(Case("demo", "b", 1, 7), 5.0),
    )
    assert [row[1:] for row in by_situation.rows] == [
        ("batch 1, size 32", "1.25 (1)"),
        ("batch 1, size 64", "2.00 (1)"),
        ("batch 1", "5.00 (1)"),
    ]


def test_one_situation_needs_no_table_of_its_own() -> None:
    assert len(summary_of(measured(Case("demo", "a", 1, 32), 1.0), measured(Case("demo", "b", 1, 32), 2.0))) == 1
