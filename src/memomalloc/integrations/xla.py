"""XLA's heap-simulator traces, from the `.hlo.pb` files that it dumps.

``XLA_FLAGS="--xla_dump_to=DIR --xla_dump_hlo_as_proto"`` writes a ``*_after_optimizations.hlo.pb`` for each module.
It ends with the assignment of buffers and, for each allocation that XLA packed, what its heap simulator was told in
order: that a buffer begins, that one ends, that one lies on another. Messages and numbers of fields are those of
``xla/service/hlo.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from memomalloc.data.input_file import read_bounded
from memomalloc.data.problem import Problem
from memomalloc.errors import FileFormatError, InvalidProblemError
from memomalloc.integrations.dumped_problem import DumpedProblem

MAX_FILE_BYTES = 2**31
_WHAT = "dump of XLA (.hlo.pb)"

# Fields, by message.
_HLO_BUFFER_ASSIGNMENT = 3
_ASSIGNMENT_LOGICAL_BUFFER, _ASSIGNMENT_ALLOCATION, _ASSIGNMENT_TRACE = 1, 3, 4
_BUFFER_ID, _BUFFER_SIZE = 1, 2
_ALLOCATION_SIZE, _ALLOCATION_ASSIGNED = 2, 9
_ASSIGNED_BUFFER = 1
_TRACE_EVENT = 1
_EVENT_KIND, _EVENT_BUFFER, _EVENT_INSTRUCTION, _EVENT_CANONICAL = 1, 2, 4, 5
_ALLOC, _FREE, _SHARE_WITH = 0, 1, 2


@dataclass
class _Shared:
    """Buffers that lie on each other: one buffer to the planner."""

    name: str
    first: int
    last: int
    sizes: list[int] = field(default_factory=list)


def read_xla_dump(path: str | Path, *, alignment_bytes: int = 64) -> list[DumpedProblem]:
    """Every allocation that XLA's heap simulator packed.

    A tick is an event of the simulator. Buffers that share one place are one buffer, alive from the first's begin to
    the last's end.

    Args:
        path: a ``*_after_optimizations.hlo.pb``.
        alignment_bytes: of each buffer; XLA takes 64 for processors and 256 for graphics cards.

    Returns:
        A problem for each trace; ``own_bytes`` is the size of XLA's allocation.

    Raises:
        FileFormatError: not such a file, or one without traces.
    """
    content = read_bounded(path, MAX_FILE_BYTES, what=_WHAT)
    try:
        return _read(content, path, alignment_bytes)
    except (_DamagedError, KeyError, InvalidProblemError) as error:
        raise FileFormatError(path, f"not a whole {_WHAT}: {error}") from None


def _read(content: bytes, path: str | Path, alignment_bytes: int) -> list[DumpedProblem]:
    sizes: dict[int, int] = {}
    own_bytes: dict[int, int] = {}  # by buffer: of the allocation that it is in
    traces: list[bytes] = []
    for number, assignment in _messages(content):
        if number != _HLO_BUFFER_ASSIGNMENT:
            continue
        for kind, message in _messages(assignment):
            if kind == _ASSIGNMENT_LOGICAL_BUFFER:
                buffer = _numbers(message)
                sizes[buffer.get(_BUFFER_ID, 0)] = buffer.get(_BUFFER_SIZE, 0)
            elif kind == _ASSIGNMENT_ALLOCATION:
                size = _numbers(message).get(_ALLOCATION_SIZE, 0)
                for part, assigned in _messages(message):
                    if part == _ALLOCATION_ASSIGNED:
                        own_bytes[_numbers(assigned).get(_ASSIGNED_BUFFER, 0)] = size
            elif kind == _ASSIGNMENT_TRACE:
                traces.append(message)
    found: list[DumpedProblem] = []
    for trace in traces:
        buffers = _simulated(trace, sizes)
        if not buffers:
            continue
        shared = list({id(one): one for one in buffers.values()}.values())
        problem = Problem.from_arrays(
            [max(one.sizes) for one in shared],
            [one.first for one in shared],
            [one.last for one in shared],
            alignment_bytes=alignment_bytes,
            ids=[one.name for one in shared],
        )
        own = next((own_bytes[buffer] for buffer in buffers if buffer in own_bytes), None)
        found.append(DumpedProblem(f"trace {len(found)}", problem, own))
    if not found:
        raise FileFormatError(
            path,
            "no trace of XLA's heap simulator in it: dump with XLA_FLAGS='--xla_dump_to=DIR --xla_dump_hlo_as_proto' "
            "and take a file that ends in after_optimizations.hlo.pb, of a module that needs temporary buffers",
        )
    return found


def _simulated(trace: bytes, sizes: dict[int, int]) -> dict[int, _Shared]:
    """What each buffer of a trace is part of."""
    buffers: dict[int, _Shared] = {}
    for tick, event in enumerate(message for kind, message in _messages(trace) if kind == _TRACE_EVENT):
        numbers = _numbers(event)
        kind, buffer = numbers.get(_EVENT_KIND, _ALLOC), numbers.get(_EVENT_BUFFER, 0)
        if kind == _FREE:
            buffers[buffer].last = tick
            continue
        if kind == _SHARE_WITH:
            shared = buffers[numbers.get(_EVENT_CANONICAL, 0)]
        elif kind == _ALLOC:
            instruction = dict(_messages(event)).get(_EVENT_INSTRUCTION, b"").decode("utf-8", "replace")
            shared = _Shared(f"{instruction}#{buffer}", tick, tick)
        else:
            raise _DamagedError(f"an event of kind {kind}, which the heap simulator does not have")
        shared.sizes.append(sizes[buffer])
        buffers[buffer] = shared
        # Whoever never ends lives on after the last event.
        shared.last = 2**62
    return buffers


class _DamagedError(ValueError):
    """Bytes that are no protocol buffer."""


def _numbers(message: bytes) -> dict[int, int]:
    """The fields of a message that are numbers; the last of each, as protocol buffers have it."""
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def _messages(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that have a length: messages and texts."""
    return ((number, value) for number, value in _fields(message) if isinstance(value, bytes))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers, and bytes of whatever has a length."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _DamagedError(f"a field of wire type {wire} at byte {place}")
        if length > len(message) - place:
            raise _DamagedError(f"it ends within a field, at byte {place}")
        if wire == 2:
            yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _DamagedError("it ends within a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Two's complement, as numbers with a sign are written.
            return (value - 2**64 if value >= 2**63 else value), place
    raise _DamagedError(f"a number of more than ten bytes at byte {place}")
