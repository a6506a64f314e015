from __future__ import annotations

from pathlib import Path

import pytest

import memomalloc
from memomalloc.errors import FileFormatError
from memomalloc.integrations.xla import read_xla_dump

DUMP = Path(__file__).parents[1] / "compiler_dumps" / "xla.hlo.pb"
ALLOC, FREE, SHARE = 0, 1, 2


def varint(value: int) -> bytes:
    value %= 2**64
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def message(tag: int, content: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(content)) + content


def event(kind: int, buffer: int, canonical: int = 0) -> bytes:
    content = number(1, kind) + number(2, buffer) + message(3, b"main") + message(4, b"add")
    return message(1, content + (number(5, canonical) if canonical else b""))


def module(sizes: dict[int, int], *traces: list[bytes], allocation: int = 0) -> bytes:
    logical = b"".join(message(1, number(1, buffer) + number(2, size)) for buffer, size in sizes.items())
    assigned = b"".join(message(9, number(1, buffer) + number(3, size)) for buffer, size in sizes.items())
    packed = b"".join(message(4, b"".join(events)) for events in traces)
    # Fields of other kinds than those that are read, as a newer XLA may write them.
    others = varint(7 << 3 | 5) + b"1234" + varint(8 << 3 | 1) + b"12345678"
    return others + message(3, logical + message(3, number(1, 0) + number(2, allocation) + assigned) + packed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "module.hlo.pb"


def test_a_real_dump() -> None:
    (dumped,) = read_xla_dump(DUMP)
    assert dumped.own_bytes == 98816
    # What XLA's report of the same module says of its temporaries; two pairs share a place.
    assert len(dumped.problem) == 7
    assert sorted(dumped.problem.sizes.tolist()) == [64, 512, *[32768] * 5]
    planned = memomalloc.plan(dumped.problem)
    assert planned.arena_bytes == planned.lower_bound_bytes == 98304


def test_events_are_ticks_and_what_shares_a_place_is_one_buffer(path: Path) -> None:
    events = [event(ALLOC, 1), event(ALLOC, 2), event(FREE, 1), event(SHARE, 3, 1), event(FREE, 3), event(FREE, 2)]
    path.write_bytes(module({1: 100, 2: 50, 3: 300}, events, allocation=640))
    (dumped,) = read_xla_dump(path, alignment_bytes=1)
    assert dumped.own_bytes == 640
    assert dumped.problem.ids == ("add#1", "add#2")
    assert dumped.problem.sizes.tolist() == [300, 50]
    assert dumped.problem.starts.tolist() == [0, 1]
    assert dumped.problem.ends.tolist() == [4, 5]


def test_what_never_ends_lives_on(path: Path) -> None:
    path.write_bytes(module({1: 64, 2: 64}, [event(ALLOC, 1), event(ALLOC, 2), event(FREE, 2)]))
    (dumped,) = read_xla_dump(path)
    assert dumped.problem.ends[0] > 10


def test_every_trace_is_a_problem(path: Path) -> None:
    one, other = [event(ALLOC, 1), event(FREE, 1)], [event(ALLOC, 2), event(FREE, 2)]
    path.write_bytes(module({1: 64, 2: 128}, one, [], other))
    assert [dumped.problem.sizes.tolist() for dumped in read_xla_dump(path)] == [[64], [128]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no trace of XLA's heap simulator"),
        (module({1: 64}), "no trace of XLA's heap simulator"),
        (module({}, [event(ALLOC, 1)]), "not a whole dump of XLA"),
        (module({1: 64}, [event(FREE, 1)]), "not a whole dump of XLA"),
        (module({1: 64, 2: 64}, [event(SHARE, 2, 1)]), "not a whole dump of XLA"),
        (module({1: 64}, [event(9, 1)]), "an event of kind 9"),
        (module({1: -64}, [event(ALLOC, 1)]), "must not be negative"),
        (module({1: 2**62}, [event(ALLOC, 1)]), "can be planned"),
        (b"\xff" * 30, "more than ten bytes"),
        (b"HloModule jit_f, entry_computation_layout", "not a whole dump of XLA"),
    ],
)
def test_what_is_no_dump_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_xla_dump(path)
    assert str(path) in str(caught.value)


def test_a_damaged_dump_is_refused_or_read_never_anything_else(path: Path) -> None:
    whole = DUMP.read_bytes()
    places = [*range(0, len(whole), 97), *range(len(whole) - 300, len(whole))]
    for place in places:
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                read_xla_dump(path)
            except FileFormatError:
                continue
    with pytest.raises(FileFormatError, match="there is no such file"):
        read_xla_dump(path.with_name("nosuch"))
