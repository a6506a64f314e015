"""What the doctor makes of what was seen, without a process."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import memomalloc
from memomalloc.data.trace import Trace
from memomalloc.doctor import account as parts
from memomalloc.doctor import mappings
from memomalloc.doctor.account import Account, Holder, account_of
from memomalloc.doctor.diagnosis import MIB, PAGE_FAULTS, RETENTION, UNEXPLAINED, diagnose
from memomalloc.doctor.examination import AS_IT_IS, Remedy
from memomalloc.doctor.inside import parse_arenas, parse_python_heap
from memomalloc.doctor.observation import Look, Observation
from memomalloc.doctor.processes import PAGE_BYTES, Sample


def sample(at_s: float, mib: int, faults: int = 0, cpu_s: float = 0.0, kernel_s: float = 0.0) -> Sample:
    return Sample(at_s, mib * MIB, mib * MIB, faults, cpu_s, kernel_s, num_threads=1)


def account(**mib: int) -> Account:
    return Account(parts={name: mib.get(name.replace(" ", "_"), 0) * MIB for name in parts.SOURCES}, allocator="glibc")


def examination(seen: Observation, trace: Trace | None = None, **with_remedies: Observation) -> Any:
    """One whose program is never run: whatever is tried was seen before."""

    def run(remedy: Remedy) -> Observation | None:
        return seen if remedy is AS_IT_IS else with_remedies.get(next(iter(remedy.variables), ""))

    def median(remedy: Remedy, figure: Any, near: Any = ()) -> float | None:
        found = run(remedy)
        return None if found is None else figure(found)

    return SimpleNamespace(plain=seen, median=median, recorded=lambda: trace, may_run=False)


def test_mapping_and_unmapping_within_a_sample_is_counted() -> None:
    # Between two samples memory comes and goes: only what is left of it is growth.
    samples = tuple(sample(t, 100 + (30 if t % 2 else 0), faults=10_000 * t, cpu_s=float(t)) for t in range(11))
    seen = Observation(samples)
    assert seen.faults == 100_000
    assert seen.repeated_faults == 100_000 - 30 * MIB // PAGE_BYTES
    grown = Observation((sample(0, 100), sample(10, 100 + 40, faults=100_000)))
    assert grown.repeated_faults == 100_000 - 40 * MIB // PAGE_BYTES


def test_imports_are_not_the_programs_own_work() -> None:
    samples = (sample(0, 10), sample(5, 200, faults=300_000, cpu_s=5), sample(9, 200, faults=301_000, cpu_s=9))
    assert Observation(samples, torch_at_s=5.0).repeated_faults == 1000
    assert Observation(samples, torch_at_s=5.0).growth_bytes == 0


def retaining(mib: int, resident: int = 500) -> Observation:
    samples = tuple(sample(float(t), resident) for t in range(10))
    free = {"free_in_the_allocator": mib, "in_use_by_native_code": resident - mib}
    return Observation(samples, (Look(1.0, account(in_use_by_native_code=200)), Look(9.0, account(**free))))


def test_what_a_copy_gave_back_is_retained_whenever_the_growth_ended() -> None:
    (found, *others) = diagnose(examination(retaining(250)))
    assert (found.name, found.holds) == (RETENTION, True)
    assert found.remedies == ("malloc_trim(0) now and then: 500 MiB -> 250 MiB, tried in the copy",)
    assert not [other.name for other in others if other.holds]
    assert not [other.name for other in diagnose(examination(retaining(40))) if other.holds]


def test_remedies_are_ranked_by_what_they_saved_and_those_that_did_not_help_are_none() -> None:
    seen = examination(retaining(250), MALLOC_MMAP_THRESHOLD_=retaining(10, 260), MALLOC_ARENA_MAX=retaining(200, 450))
    (found, *_) = diagnose(seen)
    assert [remedy.partition(":")[0] for remedy in found.remedies] == [
        "malloc_trim(0) now and then",
        "MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=131072",
    ]
    assert "500 MiB -> 260 MiB at the end" in found.remedies[1]


def growing(part: str, *, ends: bool = False) -> Observation:
    """350 MiB more of one part; ends: in the first two thirds."""
    samples = tuple(sample(float(t), 100 + 50 * min(t, 6 if ends else 10)) for t in range(11))
    looks = tuple(
        Look(float(t), account(files_mapped=100, **{part: 50 * min(t, 6 if ends else 10)})) for t in (0, 3, 5, 8, 10)
    )
    return Observation(samples, looks)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("tensors_alive", "tensors that stay alive"),
        ("kept_for_a_backward_pass", "tensors that stay alive"),
        ("Python's_objects", "Python objects that stay alive"),
        ("in_use_by_native_code", UNEXPLAINED),
        ("not_explained", UNEXPLAINED),
        ("shared_memory", "shared memory that stays"),
        ("files_mapped", "files that stay mapped"),
    ],
)
def test_the_part_that_grows_is_named(part: str, name: str) -> None:
    if part == "files_mapped":
        samples = tuple(sample(float(t), 100 + 50 * t) for t in range(11))
        seen = Observation(samples, tuple(Look(float(t), account(files_mapped=50 * t)) for t in (0, 3, 8, 10)))
    else:
        seen = growing(part)
    assert [found.name for found in diagnose(examination(seen)) if found.holds] == [name]


def test_tensors_that_stay_alive_come_with_advice() -> None:
    def work() -> torch.Tensor:
        first = torch.ones(1 << 20)
        total = first.sum()
        second = torch.ones(1 << 20)
        return total + second.sum()

    with memomalloc.record(calls=True) as recording:
        work()
    (found, *_) = diagnose(examination(growing("tensors_alive"), recording.trace))
    assert re.match(r"at its peak 8.00 MiB are alive while .* 8.00 MiB read no more$", found.figures[-1])
    assert found.remedies[-1].startswith("the peak of 8.00 MiB falls to 4.00 MiB (50% less): ")
    assert "`del` the result of aten::ones" in found.remedies[-1]
    # Whoever reads them is not known, or nothing was recorded.
    for trace in (None, dataclasses.replace(recording.trace, calls=None)):
        (found, *_) = diagnose(examination(growing("tensors_alive"), trace))
        assert not [text for text in found.figures if "peak" in text]


def test_whoever_takes_samples_may_have_got_no_processor() -> None:
    few = tuple(sample(t, 100 + int(30 * t)) for t in (0.0, 1.0, 2.0, 5.0, 10.0))
    looks = tuple(Look(t, account(files_mapped=100, in_use_by_native_code=int(30 * t))) for t in (0.0, 1.0))
    seen = Observation(few, looks)
    assert seen.late_growth_bytes == 90 * MIB
    assert [found.name for found in diagnose(examination(seen)) if found.holds] == [UNEXPLAINED]


def test_accounts_of_a_shorter_time_than_the_growth_tell_what_grew() -> None:
    samples = tuple(sample(float(t), 100 + 10 * t) for t in range(11))
    looks = tuple(Look(float(t), account(files_mapped=100, in_use_by_native_code=10 * t)) for t in (0, 6.5, 9))
    (found, *_) = diagnose(examination(Observation(samples, looks)))
    assert (found.name, found.holds) == (UNEXPLAINED, True)
    assert found.num_bytes == Observation(samples, looks).growth_bytes == 60 * MIB


@pytest.mark.parametrize("part", ["tensors_alive", "weights_and_buffers", "Python's_objects"])
def test_what_grew_and_then_no_more_is_no_cause(part: str) -> None:
    assert not [found.name for found in diagnose(examination(growing(part, ends=True))) if found.holds]


def test_page_faults_that_no_remedy_takes_away_have_another_reason() -> None:
    def faulting(num: int) -> Observation:
        return Observation((sample(0, 100), sample(10, 100, faults=num, cpu_s=2.0, kernel_s=0.5)))

    names = [found.name for found in diagnose(examination(faulting(100_000))) if found.holds]
    assert names == [PAGE_FAULTS]  # nothing could be tried
    cured = examination(faulting(100_000), MALLOC_MMAP_MAX_=faulting(1000))
    (found, *_) = diagnose(cured)
    assert "100,000 -> 1,000 such page faults" in found.remedies[0]
    same = examination(faulting(100_000), MALLOC_MMAP_MAX_=faulting(90_000))
    assert not [found.name for found in diagnose(same) if found.holds]


def test_an_account_never_has_more_than_there_is() -> None:
    told = {
        "resident": {mappings.DATA: 100, mappings.FILE: 50, mappings.STACK: 5},
        "malloc": {"name": "glibc", "used_bytes": 1000, "free_bytes": 20, "arenas": [15, 5]},
        "python_heap": {"used_bytes": 30, "mapped_bytes": 40},
        "tensors": {"weights_bytes": 10, "other_bytes": 20, "autograd_bytes": 0, "num_tensors": 3},
        "objects": {"num": 9, "large_bytes": 0},
        "types": {"str": [2, 100]},
        "files": {"lib.so": 50},
        "given_back_bytes": 15,
        "unreachable_bytes": 0,
        "holders": [["kept in __main__", "a list of 2", 20]],
    }
    found = account_of(told)
    assert found.resident_bytes == 155
    assert found.parts[parts.NATIVE] == 15
    assert found.parts[parts.UNEXPLAINED] == 0
    assert found.holders == (Holder("kept in __main__", "a list of 2", 20),)
    assert found.arenas is not None
    assert (found.arenas.main_free_bytes, found.arenas.other_free_bytes) == (15, 5)


def test_mappings_are_told_apart(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    for header in (
        "00400000-00401000 r-xp 00000000 fe:00 1 /usr/bin/python3",
        "01000000-01100000 rw-p 00000000 00:00 0 [heap]",
        "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ",
        "7f1000003000-7f1000004000 ---p 00000000 00:00 0 ",
        "7f1000004000-7f1000804000 rw-p 00000000 00:00 0 ",
        "7f2000000000-7f2000002000 rwxp 00000000 00:00 0 ",
        "7f3000000000-7f3000100000 rw-s 00000000 00:01 7 /dev/shm/psm_1 (deleted)",
        "7f4000003000-7f4000100000 rw-p 00000000 00:00 0 ",
        "7f5000000000-7f5000001000 r--p 00000000 fe:00 1 /usr/lib/libsome.so.13",
        "7f5000001000-7f5000002000 rw-p 00000000 fe:00 1 /usr/lib/libsome.so.13",
        "7f5000002000-7f5000009000 rw-p 00000000 00:00 0 ",
        "7f500000a000-7f500000b000 rw-p 00000000 00:00 0 ",
        "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]",
    ):
        lines += [header, "Size: 4 kB", "Rss: 4 kB"]
    (tmp_path / "smaps").write_text("\n".join(lines))
    read = open
    monkeypatch.setattr("builtins.open", lambda path, *rest, **more: read(tmp_path / "smaps", *rest, **more))
    kinds = " ".join(mapping.kind for mapping in mappings.read_mappings(1))
    assert kinds == "file heap arena data stack code shared data file file file data stack"


def test_other_texts_are_no_heaps() -> None:
    assert parse_arenas("") is None
    assert parse_arenas("<malloc/>") is None
    assert parse_arenas('<malloc><heap nr="0"><total type="fast" count="1"/></heap></malloc>') is None
    text = """<malloc version="1">
      <heap nr="0"><total type="fast" count="1" size="10"/><total type="rest" count="1" size="90"/></heap>
      <heap nr="1"><total type="fast" count="0" size="0"/><total type="rest" count="1" size="7"/></heap>
      <total type="fast" count="1" size="10"/></malloc>"""
    assert parse_arenas(text) == [100, 7]
    assert parse_python_heap("nothing") == {}
    told = "12 arenas * 1048576 bytes/arena    =           12,582,912\n# bytes in allocated blocks   =    1,000\n"
    assert parse_python_heap(told) == {"mapped_bytes": 12582912, "used_bytes": 1000}
