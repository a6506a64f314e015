"""``memomalloc bench service``: services are measured, one that fails leaves the others, and a session can go on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memomalloc.bench import upstream
from memomalloc.bench.results_file import load_results
from memomalloc.bench.service_mixes import MIXES, weights
from memomalloc.bench.service_results import ServiceCase, ServiceResults
from memomalloc.bench.service_session import run_service_session
from memomalloc.bench.session import SessionError


def run_bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memomalloc", "bench", "service", "--mix", "recommend", "--upstream", "glibc"]
    return subprocess.run([*command, "--workers", "2", *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("service") / "service.json"
    finished = run_bench("--smoke", "--way", "threads,processes", "-o", str(path))
    assert finished.returncode == 0, finished.stderr
    assert "recommend, threads, planned over glibc, repetition 1:" in finished.stdout
    return path


def test_services_are_measured_and_planned_ones_replay(path: Path) -> None:
    results = load_results(path)
    assert isinstance(results, ServiceResults)
    assert [(row.way, row.side) for row in results.rows] == [
        *(("threads", "plain"), ("threads", "planned"), ("processes", "plain"), ("processes", "planned"))
    ]
    for row in results.rows:
        assert not row.error
        rates = results.rates[f"recommend, {row.way}"]
        assert [point.rate_per_s for point in row.points] == rates[: len(row.points)]
        assert row.points
        for point in row.points:
            assert 0 < point.p50_ms <= point.p99_ms <= point.max_ms
            assert point.num_requests == max(round(point.rate_per_s * results.seconds), 1)
            assert point.cpu_s > 0
        assert row.saturated_per_s > 0
        assert row.first_request_ms > 0
        assert row.curve[0][0] < row.curve[-1][0]
        assert row.peak_bytes >= row.steady_bytes > 0
    for plain, planned in (results.rows[:2], results.rows[2:]):
        assert plain.num_recordings == plain.num_replayed == 0
        assert plain.results_equal is plain.served_share is plain.first_planned_s is None
        assert planned.results_equal is True
        assert planned.num_recordings >= 1
        assert planned.num_replayed > planned.points[0].num_requests
        assert planned.served_share is not None
        assert planned.served_share > 0.9
        assert planned.first_planned_s is not None
        assert planned.first_planned_requests is not None
        assert planned.first_planned_requests > 3  # each model's first request comes alone, and is a warm-up


def test_a_session_goes_on_with_the_rows_that_are_left(path: Path, tmp_path: Path) -> None:
    document = json.loads(path.read_text())
    kept = document["rows"][1]
    half = tmp_path / "half.json"
    half.write_text(json.dumps({**document, "rows": [kept], "rates": {"recommend, threads": [7.0]}}))
    finished = run_bench("--smoke", "--resume", "-o", str(half))
    assert finished.returncode == 0, finished.stderr
    again = json.loads(half.read_text())
    assert again["rows"][0] == kept
    assert [(row["side"], row["way"]) for row in again["rows"][1:]] == [("plain", "threads")]
    assert [point["rate_per_s"] for point in again["rows"][1]["points"]] == [7.0]


def test_what_was_measured_is_neither_replaced_nor_mixed(path: Path) -> None:
    before = path.read_text()
    finished = run_bench("-o", str(path))
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "go on with it with --resume" in finished.stderr
    finished = run_bench("-o", str(path), "--resume", "--seconds", "9")
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "cannot stand beside new ones" in finished.stderr
    assert path.read_text() == before


def test_a_service_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The process of this allocator runs with glibc, and says so.
    missing = dataclasses.replace(upstream.UPSTREAMS["mimalloc"], library="")
    monkeypatch.setitem(upstream.UPSTREAMS, "mimalloc", missing)
    results = ServiceResults.here(seed=0, workers=1, seconds=0.3, smoke=True)
    cases = [ServiceCase("recommend", "threads", name, "plain", 1) for name in ("mimalloc", "glibc")]
    stages: list[str] = []
    run_service_session(
        cases,
        results,
        path=tmp_path / "service.json",
        rates=[20.0],
        on_progress=lambda case, stage, share: stages.append(stage),
    )
    failed, measured = results.rows
    assert failed.error == "mimalloc was to be preloaded, but the allocator of the process is glibc"
    assert not failed.points
    assert not measured.error
    assert [point.rate_per_s for point in measured.points] == [20.0]
    assert "20 requests a second" in stages
    assert load_results(tmp_path / "service.json") == results
    with pytest.raises(SessionError, match="mimalloc was to be preloaded"):
        run_service_session(cases[:1], ServiceResults.here(seed=0, workers=1, seconds=0.3, smoke=True), path=None)


@pytest.mark.parametrize("mix", MIXES.values(), ids=lambda mix: mix.name)
def test_every_request_of_a_mix_can_be_answered(mix: object) -> None:
    if mix.needs_transformers:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    service = mix.build(True)
    assert sum(weights(service.requests)) == pytest.approx(1)
    assert {request.model for request in service.requests} == set(range(len(service.models)))
    with torch.inference_mode():
        for request in service.requests:
            request.call(service.models[request.model].eval())
