"""Attacks on plan files. A file that passes must be a plan that is safe to replay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memomalloc
from memomalloc.data import Plan, Problem, Trace
from memomalloc.data.plan_file import checksum
from memomalloc.errors import FileFormatError
from memomalloc.planners import plan

Payload = dict[str, Any]


@pytest.fixture
def planned() -> Plan:
    return plan(Trace.from_arrays([100, 200, 300, 64], [0, 1, 4, 5], [3, 5, 0, 7], [False, False, True, False]))


@pytest.fixture
def path(tmp_path: Path, planned: Plan) -> Path:
    path = tmp_path / "plan.json"
    planned.save(path)
    return path


def forge(path: Path, change: Callable[[Payload], object]) -> None:
    """Change the payload and recompute the checksum, as whoever wants to do harm would."""
    document = json.loads(path.read_text())
    change(document["plan"])
    document["checksum"] = checksum(document["plan"])
    path.write_text(json.dumps(document))


def refuses(path: Path, message: str) -> None:
    with pytest.raises(FileFormatError, match=message) as caught:
        Plan.load(path)
    assert path.name in str(caught.value)


def test_round_trip(path: Path, planned: Plan) -> None:
    again = Plan.load(path)
    for name in ("sizes", "starts", "ends", "offsets", "escapes", "smallest_sizes"):
        assert (getattr(again, name) == getattr(planned, name)).all()
        assert getattr(again, name).dtype == getattr(planned, name).dtype
        assert not getattr(again, name).flags.writeable
    for name in (
        "arena_bytes",
        "lower_bound_bytes",
        "planner",
        "proven_optimal",
        "elapsed_s",
        "alignment_bytes",
        "gap",
    ):
        assert getattr(again, name) == getattr(planned, name)


def test_round_trip_of_alignments_and_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan(Problem.from_arrays([1, 2], [0, 0], [1, 1], alignment_bytes=1, alignments=[1, 8])).save(path)
    alignments = Plan.load(path).alignments
    assert alignments is not None
    assert alignments.tolist() == [1, 8]
    plan(Problem.from_arrays([], [], [])).save(path)
    assert len(Plan.load(path)) == 0


def test_equal_plans_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    Plan.load(path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_missing_file(tmp_path: Path) -> None:
    refuses(tmp_path / "none.json", "no such file")


def test_folder(tmp_path: Path) -> None:
    refuses(tmp_path, "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(path: Path) -> None:
    path.chmod(0)
    refuses(path, "cannot be read")


@pytest.mark.parametrize("length", [0, 1, 10, 100, 300])
def test_truncated(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    refuses(path, "damaged or truncated")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "damaged"),
        (b"[" * 200_000, "nested too deeply|damaged"),
        (b'{"format":' * 200_000, "nested too deeply|damaged"),
        (b"[]", "not a plan file"),
        (b"null", "not a plan file"),
        (b"5", "not a plan file"),
        (b'{"format":"memomalloc-trace"}', "not a plan file"),
        (b'{"format":"memomalloc-plan"}', "version None"),
        (b'{"format":"memomalloc-plan","version":2}', "version 2"),
        (b'{"format":"memomalloc-plan","version":true}', "version True"),
        (b'{"format":"memomalloc-plan","version":1}', "'checksum' is missing"),
        (b'{"format":"memomalloc-plan","version":1,"checksum":"x","plan":[]}', "plan must be an object"),
        (b'{"format":"memomalloc-plan","version":1,"checksum":"x","plan":{}}', "checksum"),
        (b'{"format":"memomalloc-plan","version":1,"checksum":"x","plan":{},"more":1}', "unknown key 'more'"),
        (b'{"format":"memomalloc-plan","format":"memomalloc-plan"}', "duplicate key 'format'"),
        (b'{"format":NaN}', "NaN is not a number"),
        (b'{"format":-Infinity}', "-Infinity is not a number"),
        (b'{"format":' + b"9" * 10_000 + b"}", "digits|not a plan file"),
    ],
)
def test_not_a_plan_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    refuses(path, message)


def test_edited_by_hand_without_a_new_checksum(path: Path) -> None:
    path.write_text(path.read_text().replace('"offsets":[', '"offsets":[ '))
    Plan.load(path)  # spaces do not matter
    document = json.loads(path.read_text())
    document["plan"]["offsets"][0] += 64
    path.write_text(json.dumps(document))
    refuses(path, "checksum does not match")


def test_oversized_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memomalloc.data.plan_file.MAX_FILE_BYTES", 100)
    refuses(path, "larger than the 100 bytes")


def test_terabyte_arena(path: Path) -> None:
    def enlarge(payload: Payload) -> None:
        payload["offsets"][0] = 2**40
        payload["arena_bytes"] = 2**40 + payload["sizes"][0]

    forge(path, enlarge)
    refuses(path, "larger than max_arena_bytes = 274877906944")
    Plan.load(path, max_arena_bytes=2**41)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["offsets"].__setitem__(0, p["offsets"][1]), "share bytes"),
        (lambda p: p["offsets"].__setitem__(0, p["offsets"][2]), "share bytes"),
        (lambda p: p["offsets"].__setitem__(3, p["offsets"][2]), "share bytes"),
        (lambda p: p["offsets"].__setitem__(0, -64), "out of range"),
        (lambda p: p["offsets"].__setitem__(0, 1), "multiple"),
        (lambda p: p["offsets"].__setitem__(0, 2**63 - 64), "out of range"),
        (lambda p: p["offsets"].__setitem__(0, 2**64), "64 bits"),
        (lambda p: p["offsets"].__setitem__(0, 0.5), "list of whole numbers"),
        (lambda p: p["offsets"].__setitem__(0, True), "list of whole numbers"),
        (lambda p: p["offsets"].__setitem__(0, "0"), "list of whole numbers"),
        (lambda p: p["offsets"].__setitem__(0, None), "list of whole numbers"),
        (lambda p: p["offsets"].append(0), "offsets has 5 entries"),
        (lambda p: p["sizes"].__setitem__(0, -128), "size -128"),
        (lambda p: p["sizes"].__setitem__(0, 100), "multiples of alignment_bytes"),
        (lambda p: p["sizes"].__setitem__(0, 2**62), "sum to more"),
        (lambda p: p["sizes"].__setitem__(0, 0), "smallest_sizes"),
        (lambda p: p["smallest_sizes"].__setitem__(0, 4096), "smallest_sizes"),
        (lambda p: p["smallest_sizes"].__setitem__(0, -1), "smallest_sizes"),
        (lambda p: p["ends"].__setitem__(0, 0), "is empty"),
        (lambda p: p.__setitem__("ends", [7, 7, 7, 7]), "share bytes"),
        (lambda p: p.__setitem__("starts", 5), "list of whole numbers"),
        (lambda p: p.__setitem__("arena_bytes", p["arena_bytes"] - 64), "the buffers need"),
        (lambda p: p.__setitem__("arena_bytes", p["arena_bytes"] + 64), "the buffers need"),
        (lambda p: p.__setitem__("arena_bytes", -1), "whole number"),
        (lambda p: p.__setitem__("arena_bytes", 1e6), "whole number"),
        (lambda p: p.__setitem__("lower_bound_bytes", 64), "it should be"),
        (lambda p: p.__setitem__("alignment_bytes", 0), "alignment_bytes"),
        (lambda p: p.__setitem__("alignment_bytes", 128), "multiple"),
        (lambda p: p.__setitem__("alignments", [0, 0, 0, 0]), "alignment 0"),
        (lambda p: p.__setitem__("alignments", [1]), "alignments has 1"),
        (lambda p: p.__setitem__("escapes", [9]), "escapes"),
        (lambda p: p.__setitem__("escapes", [-1]), "escapes"),
        (lambda p: p.__setitem__("escapes", [2, 2]), "escapes"),
        (lambda p: p.__setitem__("escapes", [2, 3]), "share bytes"),
        (lambda p: p.__setitem__("escapes", [True]), "list of whole numbers"),
        (lambda p: p.__setitem__("planner", "../etc"), "planner must be a name"),
        (lambda p: p.__setitem__("planner", 5), "planner must be a name"),
        (lambda p: p.__setitem__("proven_optimal", 1), "true or false"),
        (lambda p: p.__setitem__("elapsed_s", -1), "seconds"),
        (lambda p: p.__setitem__("elapsed_s", "1"), "seconds"),
        (lambda p: p.pop("sizes"), "'sizes' is missing"),
        (lambda p: p.__setitem__("code", "import os"), "unknown key 'code'"),
    ],
)
def test_forged_with_a_new_checksum(path: Path, change: Callable[[Payload], object], message: str) -> None:
    forge(path, change)
    refuses(path, message)


def test_huge_float_of_seconds(path: Path) -> None:
    forge(path, lambda payload: payload.__setitem__("elapsed_s", 1))
    path.write_text(path.read_text().replace('"elapsed_s": 1', '"elapsed_s": 1e999'))
    refuses(path, "too large a number")


def test_random_damage_is_refused(path: Path, planned: Plan) -> None:
    original = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(original)
        damaged[int(random.integers(len(damaged)))] = int(random.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            loaded = Plan.load(path)
        except FileFormatError:
            continue
        assert (loaded.offsets == planned.offsets).all()


def test_pinned_plans_can_be_read_back(tmp_path: Path) -> None:
    problem = Problem.from_arrays(
        [1, 0, 1], [6, 5, 1], [8, 15, 8], alignment_bytes=1, alignments=[8, 1, 2], pinned_offsets=[40, 29, -1]
    )
    planned = memomalloc.plan(problem)
    assert planned.arena_bytes == planned.lower_bound_bytes == 41
    planned.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.pinned_offsets is not None
    assert again.pinned_offsets.tolist() == [40, 29, -1]
    assert again.arena_bytes == 41


def test_an_empty_buffer_needs_no_arena(tmp_path: Path) -> None:
    problem = Problem.from_arrays([1, 0], [0, 0], [1, 1], alignment_bytes=1, pinned_offsets=[-1, 29])
    planned = memomalloc.plan(problem)
    assert planned.arena_bytes == 1
    planned.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").offsets.tolist() == [0, 29]
