"""What a file from outside takes is bounded while it is read, in memory and in time."""

from __future__ import annotations

import dataclasses
import gzip
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from child_process import run_python
from memomalloc.data.input_file import open_input
from memomalloc.data.plan_file import FORMAT
from memomalloc.errors import FileFormatError
from memomalloc.planners import plan
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.shipping.plan_archive import PlanArchive
from sample_traces import small_trace

MAX_MEMORY_BYTES = 200 * 2**20
MAX_CPU_S = 10

READ = f"""
    import resource, sys
    from memomalloc.data.any_file import read_any
    from memomalloc.data.input_file import read_bounded
    from memomalloc.bench.results_file import load_results
    from memomalloc.errors import MemomallocError
    from memomalloc.runtime.shipping.plan_archive import PlanArchive
    status = open("/proc/self/status").read()
    data = int(status.partition("VmData:")[2].split()[0]) * 1024 + {MAX_MEMORY_BYTES}
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    cpu_s = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 1 + {MAX_CPU_S}
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    path = PATH
    try:
        if path.endswith(".plans"):
            PlanArchive.from_bytes(read_bounded(path, 2**28, what="x"), path)
        elif "results" in path:
            load_results(path)
        else:
            read_any(path)
    except MemomallocError as error:
        print(error)
"""

HEADER = b'{"format":"memomalloc-trace","version":1,"end_tick":9000000000,"elsewhere_requests":0,"elsewhere_bytes":0}\n'
PLAN = b'{"format":"memomalloc-plan","version":1,"checksum":"sha256:0","plan":{"sizes":'
ORIGIN = b'{"operators":[%s],"module_path":0,"source":[0,7,0],"role":0,"occurrence":0}\n'
BOMBS: dict[str, list[tuple[bytes, int]]] = {
    "spaces.jsonl": [(HEADER, 1), (b" " * 2**20, 80)],
    "texts.jsonl": [(HEADER, 1), (b'""\n' * 2**18, 300)],
    "long_texts.jsonl": [(HEADER, 1), (b'"' + b"x" * 200_000 + b'"\n', 400)],
    "wide_texts.jsonl": [(HEADER, 1), (b'"' + b"x" * 200_000 + "\U0001f600".encode() + b'"\n', 400)],
    "origins.jsonl": [(HEADER + b'"a"\n', 1), ((ORIGIN % b"0,0,0") * 10_000, 80)],
    "operators.jsonl": [(HEADER + b'"a"\n', 1), ((ORIGIN % b",".join([b"0"] * 250)) * 1000, 100)],
    "rows.jsonl": [(HEADER, 1), (b"[8,8,0,1,0,-1]\n" * 100_000, 60)],
    "nested.jsonl": [(HEADER, 1), (b"[" * 200_000 + b"\n", 300)],
    "numbers.json": [(PLAN + b"[1", 1), (b",1" * 500_000, 80), (b"]}}", 1)],
    "lists.json": [(PLAN + b"[[]", 1), (b",[]" * 300_000, 80), (b"]}}", 1)],
    "objects.json": [(PLAN + b"[{}", 1), (b",{}" * 300_000, 80), (b"]}}", 1)],
    "brackets.json": [(PLAN, 1), (b"[" * 2**20, 40)],
    "quotes.json": [(PLAN, 1), (b'\\"' * 500_000, 40)],
    "rows.csv": [(b"id,lower,upper,size\n", 1), (b"0,0,1,1\n" * 100_000, 60)],
    "header.csv": [(b"a" * 2**20, 80)],
    "fields.csv": [(b"id,lower,upper,size\n", 1), (b"," * 2**20, 20)],
    "results.json": [(b'{"format":"memomalloc-results","version":1,"rows":[{}', 1), (b",{}" * 300_000, 50), (b"]}", 1)],
}  # fmt: skip


def write(path: Path, parts: Iterable[tuple[bytes, int]]) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part, times in parts:
            for _ in range(times):
                file.write(part)


def read_in_bounds(path: Path) -> str:
    child = run_python(READ.replace("PATH", repr(str(path))))
    assert (child.returncode, child.stderr) == (0, ""), f"status {child.returncode}\n{child.stderr[-2000:]}"
    return child.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little(name: str, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    path = tmp_path / f"{name}.gz"
    write(path, BOMBS[name])
    assert read_in_bounds(path).count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "compression", "message"),
    [
        (b'{"manifest":{"plans":[' + b"{}," * 20_000_000, zipfile.ZIP_DEFLATED, "larger than"),
        (b"[" * 60_000_000, zipfile.ZIP_DEFLATED, "larger than"),
        (b" " * 60_000_000, zipfile.ZIP_LZMA, "compressed in a way"),
    ],
    ids=["objects", "brackets", "lzma"],
)
def test_a_small_archive_takes_little(content: bytes, compression: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.plans"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("manifest.json", content)
    assert message in read_in_bounds(path)


def test_an_archive_of_too_many_files_is_not_even_listed(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(10_000):
            archive.writestr(str(number), b"")
    with pytest.raises(FileFormatError, match="more files than"):
        PlanArchive.from_bytes(packed.getvalue(), "x")


@pytest.mark.parametrize("alignment", [1, 32, 96])
def test_saved_plans_that_no_call_could_use_are_refused(alignment: int) -> None:
    trace = small_trace()
    planned = plan(trace.problem(alignment), planner="skyline")
    planned = dataclasses.replace(planned, escapes=trace.escapes, starts=trace.starts, ends=trace.ends)
    archive = PlanArchive({}, {"a": LearnedCalls(planned, trace)}).to_bytes()
    with pytest.raises(FileFormatError, match="tensors need 64"):
        PlanArchive.from_bytes(archive, "x")


def test_what_is_unpacked_and_piped_is_the_same(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    several = gzip.compress(content[:100_000]) + gzip.compress(b"") + gzip.compress(content[100_000:]) + b"\0" * 100
    (tmp_path / "x").write_bytes(several)
    with open_input(tmp_path / "x", what="file") as file:
        assert file.peek(1)
        assert file.read() == content
    for cut in (1, 10, 1000, len(several) // 2):
        (tmp_path / "x").write_bytes(gzip.compress(content)[:-cut])
        pytest.raises(FileFormatError, match="not whole gzip data")
        with (
            pytest.raises(FileFormatError, match="not whole gzip data"),
            open_input(tmp_path / "x", what="file") as file,
        ):
            file.read()


def test_a_name_that_promises_gzip_is_held_to_it(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b'"' + FORMAT.encode() + b'"')
    with (
        pytest.raises(FileFormatError, match="not whole gzip data"),
        open_input(tmp_path / "x.gz", what="file") as file,
    ):
        file.read()
