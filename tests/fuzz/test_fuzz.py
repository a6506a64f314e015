"""A short run of the fuzzer: the same inputs each time; ``make fuzz`` tries others."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import kinds
from fuzzer import fuzz

from memomalloc.errors import MemomallocError

NUM_INPUTS = 400


@pytest.mark.skipif(not kinds.RESULTS.is_dir(), reason="runs in a checkout only")
@pytest.mark.parametrize("name", kinds.KINDS)
def test_changed_files_are_refused_in_a_line_or_rightly_accepted(name: str) -> None:
    tally = fuzz([name], seconds=0, jobs=1, batch=NUM_INPUTS)[name]
    assert tally.faults == []
    assert tally.inputs == NUM_INPUTS
    assert 0 < tally.accepted < NUM_INPUTS
    assert tally.commands > 0


@pytest.mark.parametrize("name", kinds.KINDS)
def test_the_seeds_are_good_files(name: str, tmp_path: Path) -> None:
    kind = kinds.KINDS[name]
    for seed in kind.seeds:
        path = tmp_path / f"seed{kind.suffix}"
        path.write_bytes(seed)
        kind.verify(seed, kind.read(path))


def test_a_wrong_acceptance_would_be_found(tmp_path: Path) -> None:
    kind = kinds.KINDS["plan"]
    path = tmp_path / "plan.json"
    path.write_bytes(kind.seeds[0])
    found = kind.read(path)
    moved = kind.sealed(kind.seeds[0].replace(b'"offsets":[', b'"offsets":[64,', 1))
    with pytest.raises(AssertionError):
        kind.verify(moved, found)
    path.write_bytes(moved)
    with pytest.raises(MemomallocError):
        kind.read(path)
