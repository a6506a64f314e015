from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from memomalloc.bench.results_file import load_results
from memomalloc.bench.service_report import ServiceGroup, row_text, service_report
from memomalloc.bench.service_results import Point, ServiceResults, ServiceRow, highest_rate
from memomalloc.cli import bench_service, main
from memomalloc.errors import FileFormatError

MIB = 1 << 20


def point(rate: float, p99_ms: float, *, num_unanswered: int = 0) -> Point:
    return Point(rate, 2000, num_unanswered, p99_ms / 3, p99_ms / 2, p99_ms, 2 * p99_ms, 3 * p99_ms, [p99_ms], 7, 25)


def row(upstream: str, side: str, p99_ms: tuple[float, ...], repetition: int = 1, peak: int = 100) -> ServiceRow:
    return ServiceRow(
        *("net", "threads", upstream, side, repetition),
        saturated_per_s=100.0,
        first_request_ms=40.0,
        peak_bytes=peak * MIB,
        steady_bytes=peak * MIB // 2,
        rest_bytes=peak * MIB // 4,
        curve=[[0.1, 1.0], [0.2, 2.0]],
        points=[point(rate, p99) for rate, p99 in zip((10.0, 20.0, 40.0), p99_ms, strict=False)],
    )


@pytest.fixture
def results() -> ServiceResults:
    results = ServiceResults.here(seed=0, workers=2, seconds=8.0, smoke=False)
    results.mixes = {"net": "a network of ours"}
    results.rates = {"net, threads": [10.0, 20.0, 40.0]}
    results.environment = {"tcmalloc": {"LD_PRELOAD": "libtcmalloc.so"}}
    planned = row("glibc", "planned", (9.0, 20.0, 80.0), peak=50)
    results.rows = [
        row("glibc", "plain", (12.0, 30.0)),
        dataclasses.replace(planned, first_planned_s=0.5, first_planned_requests=3, served_share=0.9996),
        row("tcmalloc", "plain", (10.0, 40.0)),
        row("glibc", "plain", (14.0, 30.0), repetition=2),
        row("glibc", "planned", (9.0, 20.0, 80.0), repetition=2, peak=60),
        row("tcmalloc", "plain", (10.0, 20.0), repetition=2),
        dataclasses.replace(row("mimalloc", "plain", ()), error="ValueError: [red]it died[/red]"),
    ]
    return results


def test_the_highest_rate_lies_between_measured_ones_by_the_logarithm() -> None:
    points = [point(10, 5), point(20, 10), point(40, 40)]
    assert highest_rate(points, 20) == pytest.approx(30)
    assert highest_rate(points, 10) == 20
    assert highest_rate(points, 40) == highest_rate(points, 99) == 40
    assert highest_rate(points, 4) is None
    assert highest_rate([], 4) is None


def test_a_rate_at_which_a_service_does_not_keep_up_is_too_high() -> None:
    late = point(40, 15, num_unanswered=100)
    assert not late.keeps_up
    assert highest_rate([point(20, 10), late], 20) == 20
    assert highest_rate([late], 20) is None


def test_a_point_has_the_figures_of_all_slices() -> None:
    made = Point.of(50.0, [np.arange(1.0, 501), np.arange(501.0, 1001)], num_unanswered=3, faults=4000, cpu_s=2.0)
    assert (made.num_requests, made.p50_ms, made.max_ms) == (1000, 500.5, 1000)
    assert made.p99_ms == pytest.approx(990.01)
    assert made.p999_ms == pytest.approx(999.001)
    assert made.slice_p99_ms == pytest.approx([495.01, 995.01])
    assert (made.faults, made.cpu_s) == (4, 2)
    assert Point.of(50.0, [np.ones(999)], num_unanswered=0, faults=0, cpu_s=0).p999_ms is None


def test_the_limit_is_twice_the_least_calm_p99_without_plans(results: ServiceResults) -> None:
    assert ServiceGroup("net", "threads", results).limit_ms == 20


def test_highest_rates_are_compared_within_a_repetition(results: ServiceResults) -> None:
    table = service_report(results).summary[0]
    by_service = {line[2:4]: line[4:] for line in table.rows}
    assert set(by_service) == {("glibc", "plain"), ("glibc", "planned"), ("tcmalloc", "plain")}
    # tcmalloc is at its limit of 20 ms at 15 requests a second in the first repetition, at 20 in the second.
    assert by_service["tcmalloc", "plain"][:3] == ("20.0", "17.5 (15.0 to 20.0)", "1.00")
    assert by_service["glibc", "planned"][:3] == ("20.0", "20.0", "1.17 (1.00 to 1.33)")


def test_planned_ones_stand_beside_the_best_of_the_others(results: ServiceResults) -> None:
    table = service_report(results).summary[1]
    # At 40 no other keeps up. At 20 the best has 30 in the median of its repetitions.
    assert table.rows == (("net", "threads", "glibc", "0.90, 0.67, -", "0.55", "0.55", "0.55"),)
    results.rows[1] = dataclasses.replace(results.rows[1], rest_bytes=40 * MIB)
    results.rows[4] = dataclasses.replace(results.rows[4], rest_bytes=40 * MIB)
    assert service_report(results).summary[1].rows[0][-1] == "**1.60**"


def test_every_service_is_in_the_tables_of_its_mix(results: ServiceResults) -> None:
    latency, cost, _ = service_report(results).tables
    assert latency.columns[2:] == ("10/s", "20/s", "40/s")
    by_service = {line[:2]: line[2:] for line in latency.rows}
    assert by_service["glibc", "plain"] == ("4.33 / 13.0 / 26.0", "10.0 / 30.0 / 60.0", "- / - / -")
    costs = {line[:2]: line[2:] for line in cost.rows}
    assert costs["glibc", "planned"][:1] == ("55.0 (50.0 to 60.0)",)
    assert costs["glibc", "planned"][-3:] == ("0.50", "3", "99.9 %")
    assert costs["mimalloc", "plain"] == ("-",) * 9


def test_failures_are_told(results: ServiceResults) -> None:
    results.rows[1] = dataclasses.replace(results.rows[1], results_equal=False)
    told = service_report(results).without_gain
    assert len(told) == 2
    assert told[0].endswith("; DIFFERENT RESULTS")
    assert "it died" in told[1]


def test_a_row_in_a_line() -> None:
    assert row_text(row("glibc", "plain", (12.0, 30.0))) == (
        "net, threads, plain over glibc, repetition 1: 100 requests/s at most, p99 30.0 ms at 20/s; "
        "peak 100.0, at rest 25.0 MiB"
    )


def test_what_is_saved_is_read_and_becomes_a_page(results: ServiceResults, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    path = tmp_path / "service.json"
    for number in (1, 4):
        results.rows[number] = dataclasses.replace(results.rows[number], rest_bytes=40 * MIB)
    results.save(path)
    assert load_results(path) == results
    assert main(["bench", "report", str(path), "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| net | threads | glibc | 0.90, 0.67, - | 0.55 |" in page
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<td>0.90, 0.67, -</td>" in html
    assert "<td><b>1.60</b></td>" in html
    assert "**" not in html
    pictures = {picture.name for picture in (tmp_path / "report").glob("*.svg")}
    assert pictures == {"latency_over_rate_net_threads.svg", "memory_over_time_net_threads.svg"}


def test_results_without_rows_become_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    path = tmp_path / "service.json"
    ServiceResults.here(seed=0, workers=2, seconds=8.0, smoke=False).save(path)
    assert main(["bench", "report", str(path), "-o", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"peak_bytes": "5"}, "peak_bytes must be int"),
        ({"points": [{"rate_per_s": 1}]}, "row.points has no num_requests"),
        ({"points": [3]}, "row.points must be"),
        ({"points": {}}, "row.points must be"),
        ({"curve": [[1, 2, 3]]}, "two numbers"),
        ({"curve": 3}, "row.curve must be"),
    ],
)
def test_other_files_are_refused(
    results: ServiceResults, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "service.json"
    results.save(path)
    document = json.loads(path.read_text())
    document["rows"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=complaint):
        load_results(path)


def test_the_help_names_what_there_is() -> None:
    mixes = pytest.importorskip("memomalloc.bench.service_mixes")
    from memomalloc.bench.service_load import WAYS

    assert tuple(mixes.MIXES) == bench_service._MIXES
    assert bench_service._WAYS == WAYS


def test_wrong_options_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options in (["--mix", "none-such"], ["--way", "fibres"], ["--rates", "1,0"], ["--rates", "x"], []):
        out = [] if not options else ["-o", str(tmp_path / "out.json")]
        with pytest.raises(SystemExit) as exit_status:
            main(["bench", "service", *options, *out])
        assert exit_status.value.code == 2
    error = capsys.readouterr().err
    assert "'none-such' is none of vision, text" in error
    assert "'fibres' is none of threads, processes" in error
    assert "must be numbers above 0" in error
