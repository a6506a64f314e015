from __future__ import annotations

import json
from pathlib import Path

import pytest

from memomalloc.cli import main
from sample_traces import MIB, small_trace


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "before.trace", tmp_path / "after.trace"]
    for scale, path in enumerate(paths, start=1):
        small_trace(scale).save(path)
    return list(map(str, paths))


def test_what_grew_for_machines(traces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *traces, "--by", "module", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changes"][0] == {
        "name": "stem.conv",
        "buffers_before": 2,
        "buffers_after": 2,
        "bytes_before": 4 * MIB,
        "bytes_after": 8 * MIB,
        "peak_bytes_before": 4 * MIB,
        "peak_bytes_after": 8 * MIB,
    }


def test_what_grew_for_people(traces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert main(["diff", *traces, "--top", "1"]) == 0
    out = capsys.readouterr().out
    for text in (
        "stem.conv: aten::scratch (scratch)",
        "+3.00 MiB (+100.0%)",
        "and 3 more",
        "1 groups are as they were",
    ):
        assert text in out


def test_nothing_grew(traces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert main(["diff", traces[0], traces[0]]) == 0
    assert "as many buffers and bytes as before" in capsys.readouterr().out
