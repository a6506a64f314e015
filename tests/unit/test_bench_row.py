"""Rows: verdicts, intervals, pooling, and what they say in words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from memomalloc.bench import row_text
from memomalloc.bench.case import Case
from memomalloc.bench.row import Row, latency_figures, median_interval, pooled

CASE = Case("demo", "mobilenet_v2", 8, 224)


def measured(upstream_ms: list[float], planned_ms: list[float], **figures: object) -> Row:
    defaults: dict[str, object] = {
        "upstream_minor_faults": 100.0,
        "planned_minor_faults": 0.0,
        "upstream_kernel_ms": 1.0,
        "requests_per_call": 10,
        "requests_served_share": 1.0,
        "requests_upstream": {"size": 0},
        "results_equal": True,
        "num_processes": 1,
        "samples": {"upstream_ms": upstream_ms, "planned_ms": planned_ms, "pairs_of_process": [len(planned_ms)]},
    }
    return Row.of_case(CASE, **{"status": "ok", **defaults, **latency_figures(upstream_ms, planned_ms), **figures})


def test_ratio_is_of_pairs_and_not_of_percentiles() -> None:
    row = measured([10.0, 20.0, 40.0], [5.0, 20.0, 10.0])
    assert row.ratio_median == 2.0
    assert row.upstream_p50_ms == 20.0
    assert row.planned_p50_ms == 10.0
    assert row.num_pairs == 3


@pytest.mark.parametrize(
    ("upstream_ms", "verdict"),
    [(15.0, "gain"), (10.0, "none"), (8.0, "loss")],
)
def test_verdict_of_steady_figures(upstream_ms: float, verdict: str) -> None:
    assert measured([upstream_ms] * 20, [10.0] * 20).verdict == verdict


def test_verdict_needs_pairs() -> None:
    assert measured([20.0] * 5, [10.0] * 5).verdict == "too_few_pairs"


def test_a_gain_that_noise_could_explain_is_none() -> None:
    rng = np.random.default_rng(0)
    noisy = (10 * rng.lognormal(0.02, 0.5, 20)).tolist()
    assert measured(noisy, [10.0] * 20).verdict == "none"


def test_median_interval_holds_the_median_19_times_in_20() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        low, high = median_interval(rng.lognormal(0.0, 0.3, 30))
        inside += low <= 1.0 <= high
    assert inside >= 0.93 * 400


def test_conclusions_tell_the_bad_news() -> None:
    assert "a gain" in row_text.conclusion(measured([20.0] * 20, [10.0] * 20))
    assert "no gain" in row_text.conclusion(measured([10.0] * 20, [10.0] * 20))
    assert "SLOWER" in row_text.conclusion(measured([8.0] * 20, [10.0] * 20))
    different = measured([20.0] * 20, [10.0] * 20, status="different_results", error="the outputs differ")
    assert row_text.conclusion(different).startswith("FAILURE")
    deviated = measured([20.0] * 20, [10.0] * 20, status="deviated", error="2 requests went upstream")
    assert "2 requests went upstream" in row_text.conclusion(deviated)
    failed = Row.of_case(CASE, status="out_of_memory", error="no memory")
    assert "out of memory" in row_text.conclusion(failed)
    assert "no memory" in row_text.conclusion(failed)


def test_where_the_first_row_shows_no_gain_it_is_said_what_does() -> None:
    same, faster = measured([10.0] * 20, [10.0] * 20), measured([20.0] * 20, [10.0] * 20)
    assert row_text.what_gains([]) == ""
    assert row_text.what_gains([faster, same]) == ""
    assert row_text.what_gains([measured([10.0] * 3, [10.0] * 3)]) == "", "too few pairs to say anything"
    assert "these gain: mobilenet_v2 at batch 8 (2.00); " in row_text.what_gains([same, faster])
    nothing = row_text.what_gains([same, same])
    assert "Over glibc no row gains speed" in nothing
    assert "--batch 32" in nothing
    assert "LD_PRELOAD" in nothing


def test_a_share_below_one_is_never_shown_as_all() -> None:
    row = measured([20.0] * 20, [10.0] * 20, requests_served_share=0.99999)
    assert row_text.served(row) == "99.9 % of 10"


def test_pooling_puts_the_pairs_of_processes_together() -> None:
    a = measured([20.0] * 6, [10.0] * 6, upstream_minor_faults=0.0, upstream_peak_bytes=10)
    b = measured([30.0] * 3, [10.0] * 3, upstream_minor_faults=90.0, upstream_peak_bytes=30)
    row = pooled([a, b])
    assert row.num_pairs == 9
    assert row.num_processes == 2
    assert row.ratio_median == 2.0
    assert row.upstream_minor_faults == pytest.approx(30.0)
    assert row.upstream_peak_bytes == 20
    assert row.samples["pairs_of_process"] == [6, 3]


def test_pooling_keeps_what_went_wrong() -> None:
    good = measured([20.0] * 6, [10.0] * 6)
    bad = measured([20.0] * 6, [10.0] * 6, status="different_results", error="differ", results_equal=False)
    row = pooled([good, bad])
    assert (row.status, row.error, row.results_equal) == ("different_results", "differ", False)


def test_rows_survive_their_dictionary_and_later_fields() -> None:
    row = measured([20.0], [10.0])
    assert Row.from_dict({**row.as_dict(), "invented_later": 1}) == row
    assert row.case == CASE


def test_rows_have_the_fields_that_results_promise() -> None:
    promised = """
        model batch input_size workers intra_op_threads mode upstream ratio_median ratio_p10 ratio_p90 num_pairs
        upstream_p50_ms planned_p50_ms upstream_p99_ms planned_p99_ms upstream_minor_faults planned_minor_faults
        arena_bytes lower_bound_bytes requests_served_share
    """
    assert set(promised.split()) <= {field.name for field in dataclasses.fields(Row)}
