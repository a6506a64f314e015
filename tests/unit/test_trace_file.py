from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from memomalloc.data import Calls, Origin, SourceLine, Trace, trace_file
from memomalloc.errors import FileFormatError


@pytest.fixture
def trace() -> Trace:
    source = SourceLine("model.py", 12, "forward")
    origins = [
        Origin(("aten::conv2d", "aten::convolution"), "layer1.0.conv", source, "output", 0),
        None,
        Origin(("aten::conv2d", "aten::convolution"), "layer1.0.conv", source, "scratch", 0),
        Origin(role="escape", occurrence=3, thread="worker-1"),
    ]
    return Trace.from_arrays([100, 0, 7, 2**40], [0, 2, 3, 9], [5, 4, 8, 0], [0, 0, 0, 1], end_tick=20, origins=origins)


def assert_equal(a: Trace, b: Trace) -> None:
    for name in ("sizes", "starts", "ends", "escapes"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert (a.end_tick, a.origins) == (b.end_tick, b.origins)


@pytest.mark.parametrize("name", ["run.trace", "run.jsonl.gz"])
def test_round_trip(tmp_path: Path, trace: Trace, name: str) -> None:
    path = tmp_path / name
    trace.save(path)
    assert_equal(Trace.load(path), trace)
    first = path.read_bytes()
    Trace.load(path).save(path)
    assert path.read_bytes() == first
    assert first.startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_round_trip_of_nothing(tmp_path: Path) -> None:
    Trace.from_arrays([], [], []).save(tmp_path / "empty.trace")
    assert len(Trace.load(tmp_path / "empty.trace")) == 0


def test_texts_and_origins_are_written_once(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "run.trace"
    trace.save(path)
    assert path.read_text().count("aten::convolution") == 1


@pytest.fixture
def trace_with_calls(trace: Trace) -> Trace:
    calls = Calls.from_arrays(
        [0, 4, 6],
        [4, 6, 6],
        origins=[Origin(("aten::conv2d",), "layer1.0.conv", SourceLine("model.py", 12, "forward"), "call"), None, None],
        frames=[3, 0, 2**40],
        tracked=[0, 1, 0],
        read_counts=[0, 2, 0],
        read_buffers=[0, 2],
        outside_counts=[1, 0, 2],
        outside_bytes=[2**33, 5, 6],
    )
    columns = (trace.sizes, trace.starts, trace.ends, trace.escapes)
    return Trace.from_arrays(*columns, end_tick=trace.end_tick, origins=trace.origins, calls=calls)


def test_round_trip_with_calls(tmp_path: Path, trace_with_calls: Trace) -> None:
    path = tmp_path / "run.jsonl.gz"
    trace_with_calls.save(path)
    loaded = Trace.load(path)
    assert_equal(loaded, trace_with_calls)
    for name in (
        "begins",
        "ends",
        "frames",
        "tracked",
        "read_counts",
        "read_buffers",
        "outside_counts",
        "outside_bytes",
    ):
        assert getattr(loaded.calls, name).tolist() == getattr(trace_with_calls.calls, name).tolist()
    assert loaded.calls.origins == trace_with_calls.calls.origins
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_a_trace_without_calls_is_written_as_it_always_was(
    tmp_path: Path, trace: Trace, trace_with_calls: Trace
) -> None:
    trace.save(tmp_path / "without.trace")
    assert b'"version":1,' in (tmp_path / "without.trace").read_bytes()
    assert Trace.load(tmp_path / "without.trace").calls is None
    trace_with_calls.save(tmp_path / "with.trace")
    assert b'"version":2,' in (tmp_path / "with.trace").read_bytes()
    nothing = Calls.from_arrays([], [], read_counts=[], read_buffers=[])
    Trace.from_arrays([], [], [], calls=nothing).save(tmp_path / "none.trace")
    assert len(Trace.load(tmp_path / "none.trace").calls) == 0


def refuses(path: Path, message: str) -> FileFormatError:
    with pytest.raises(FileFormatError, match=message) as caught:
        Trace.load(path)
    return caught.value


def test_every_truncation_is_refused(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "run.trace"
    trace.save(path)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 3):
        path.write_bytes(content[:length])
        refuses(path, "run.trace")
    gz = tmp_path / "run.trace.gz"
    trace.save(gz)
    content = gz.read_bytes()
    for length in range(0, len(content), 3):
        gz.write_bytes(content[:length])
        refuses(gz, "run.trace.gz")


def test_random_damage_is_refused(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "run.trace"
    trace.save(path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        position = int(random.integers(len(damaged)))
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            loaded = Trace.load(path)
        except FileFormatError:
            continue
        assert_equal(loaded, trace)


HEADER = b'{"format":"memomalloc-trace","version":1,"end_tick":9,"elsewhere_requests":0,"elsewhere_bytes":0}\n'


def with_footer(lines: bytes, buffers: int) -> bytes:
    digest = hashlib.sha256(lines).hexdigest()
    return lines + f'{{"buffers":{buffers},"sha256":"{digest}"}}\n'.encode()


def with_calls(lines: bytes, buffers: int, calls: int) -> bytes:
    lines = HEADER.replace(b'"version":1', b'"version":2') + lines
    digest = hashlib.sha256(lines).hexdigest()
    return lines + f'{{"buffers":{buffers},"calls":{calls},"sha256":"{digest}"}}\n'.encode()


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (b"[[0,1,-1,0,0],[0],[]]\n", "call 0 .* reads a buffer that is allocated after it began"),
        (b"[[2,1,-1,0,0],[],[]]\n", "call 0 .* ends before it begins"),
        (b"[[1,10,-1,0,0],[],[]]\n", "call 0 .* ends after the trace"),
        (b"[[1,2,-1,0,0],[],[]]\n[[1,1,-1,0,0],[],[]]\n", "call 1 .* ends before the call before it"),
        (b"[[1,2,-1,0,0],[00],[]]\n", "not valid JSON"),
        (b"[[1,2,-1,0,0],[],[08]]\n", "not valid JSON"),
    ],
)
def test_calls_that_cannot_be_are_refused(tmp_path: Path, calls: bytes, message: str) -> None:
    path = tmp_path / "bad.trace"
    path.write_bytes(with_calls(b"[1,1,0,2,0,-1]\n" + calls, 1, calls.count(b"\n")))
    refuses(path, message)


def test_more_arguments_than_any_program_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.trace"
    call = b"[[1,1,-1,0,0],[" + b"0," * 60_000 + b"0],[]]\n"
    path.write_bytes(with_calls(b"[1,1,0,2,0,-1]\n" + 20 * call, 1, 20))
    refuses(path, "8 arguments of each, in the mean")


def test_a_trace_with_more_arguments_than_can_be_read_is_written_without_its_calls(tmp_path: Path) -> None:
    num_reads = 2**20 + 9
    calls = Calls.from_arrays([1], [1], read_counts=[num_reads], read_buffers=np.zeros(num_reads, dtype=np.int64))
    Trace.from_arrays([1], [0], [1], calls=calls).save(tmp_path / "run.trace")
    assert Trace.load(tmp_path / "run.trace").calls is None


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "damaged"),
        (b"\x00\x01", 1, "damaged|UTF-8"),
        (b"id,lower,upper,size\n", 1, "damaged"),
        (b'{"format":"memomalloc-plan"}\n', 1, "not a trace file"),
        (b'{"format":"memomalloc-trace","version":7,"end_tick":1}\n', 1, "version 7"),
        (b'{"format":"memomalloc-trace","version":1}\n', 1, "first line"),
        (HEADER.replace(b":9", b":-1"), 1, "-1 is not a whole number"),
        (HEADER, 1, "truncated"),
        (with_footer(HEADER, 1), 2, "number of buffers"),
        (with_footer(HEADER, 0) + b"more\n", 2, "after the last line|more"),
        (with_footer(HEADER, 0).replace(b'"end_tick":9', b'"end_tick":8'), 2, "checksum"),
        (with_footer(HEADER + b"[1,1,0,2,0]\n", 1), 2, "6 numbers, not 5"),
        (with_footer(HEADER + b"[-1,0,0,2,0,-1]\n", 1), 2, "-1 is not a whole number"),
        (with_footer(HEADER + b"[1.5,1,0,2,0,-1]\n", 1), 2, "1.5 is not"),
        (with_footer(HEADER + b"[1,1,0,2,2,-1]\n", 1), 2, "2 is not"),
        (with_footer(HEADER + b"[1,1,0,2,0,0]\n", 1), 2, "0 is not"),
        (with_footer(HEADER + b"[1,1,0,99,0,-1]\n", 1), None, "ends after"),
        (with_footer(HEADER + b"[1,1,0,2,0,-1]\n[1,1,0,2,0,-1]\n", 2), None, "not allocated after"),
        (with_footer(HEADER + b"[NaN,1,0,2,0,-1]\n", 1), 2, "NaN"),
        (with_footer(HEADER + b"5\n", 0), 2, "neither a buffer"),
        (with_footer(HEADER + b'{"operators":[0]}\n', 0), 2, "an origin has the keys"),
        (
            with_footer(HEADER + b'{"operators":[0],"module_path":0,"source":null,"role":0,"occurrence":0}\n', 0),
            2,
            "0 is not a whole number",
        ),
        (with_footer(HEADER + b'{"a":1,"a":2}\n', 0), 2, "duplicate key"),
        (with_footer(HEADER + b"[[0,1,-1,0,0],[],[]]\n", 0), 2, "a call in a trace file of version 1"),
        *(
            (with_calls(b"[1,1,0,2,0,-1]\n" + call + b"\n", 1, 1), 3, message)
            for call, message in [
                (b"[[0,1,-1,0],[],[]]", "a call is"),
                (b"[[0,1,-1,0,0],[]]", "a call is"),
                (b"[[0,1,-1,0,0],1,[]]", "a call is"),
                (b"[[0,1,-1,0,2],[],[]]", "2 is not a whole number"),
                (b"[[0,1,0,0,0],[],[]]", "0 is not a whole number"),
                (b"[[0,1,-1,-1,0],[],[]]", "-1 is not a whole number"),
                (b"[[0,1.5,-1,0,0],[],[]]", "1.5 is not a whole number"),
                (b"[[1,1,-1,0,0],[1],[]]", "1 is not a whole number"),
                (b'[[1,1,-1,0,0],[],["x"]]', "'x' is not a whole number"),
                (b"[[1,1,-1,0,0],[" + b"0," * 20 + b"0],[true]]", "True is not a whole number"),
            ]
        ),
        (HEADER + b"[" * 100_000 + b"\n", 2, "nested|damaged"),
        (HEADER + b" " * 2_000_000, 2, "longer than"),
    ],
)
def test_faults_are_located(tmp_path: Path, content: bytes, line: int | None, message: str) -> None:
    path = tmp_path / "bad.trace"
    path.write_bytes(content)
    assert refuses(path, message).line in (line, 3)


def test_missing_file_folder_and_no_gzip(tmp_path: Path) -> None:
    refuses(tmp_path / "none.trace", "no such file")
    refuses(tmp_path, "folder")
    (tmp_path / "plain.gz").write_bytes(HEADER)
    refuses(tmp_path / "plain.gz", "not whole gzip data")


def test_a_compressed_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        file.write(HEADER)
        for _ in range(100):
            file.write(b" " * 1_000_000)
    refuses(path, "longer than")


def test_more_origins_than_buffers_and_calls_need_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MORE_ORIGINS", 2)
    origin = b'{"operators":[0],"module_path":0,"source":null,"role":0,"occurrence":0}\n'
    path = tmp_path / "origins.trace"
    path.write_bytes(with_footer(HEADER + b'"a"\n' + 2 * origin + b"[1,1,0,2,0,0]\n" + origin, 1))
    assert len(Trace.load(path)) == 1
    path.write_bytes(with_footer(HEADER + b'"a"\n' + 2 * origin + b"[1,1,0,2,0,0]\n" + 2 * origin, 1))
    refuses(path, "2 origins more than buffers and calls")
