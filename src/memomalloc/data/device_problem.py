"""Problems as compilers have them: buffers to place in the memories of a device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from memomalloc import _planner
from memomalloc.data.columns import Int64Array, read_only
from memomalloc.data.forms import form_of
from memomalloc.data.problem import MAX_ALIGNMENT, MAX_TOTAL_BYTES, Problem
from memomalloc.errors import InvalidProblemError

MAX_DEVICE_BUFFERS = 2**20
MAX_MEMORIES = 64
MAX_LIFETIMES_OF_GROUP = 4096
"""Of buffers that alias: they are looked at tick by tick."""

_MAX_NUMBER = MAX_TOTAL_BYTES
_MAX_TICK = 2**62


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One memory of a device.

    Attributes:
        name: unlike those of the others.
        capacity_bytes: what there is; None: it is to be as small as possible.
        bank_bytes: of one of the banks that follow each other; None: it has no banks.
        chunk_bytes: the largest block in which it can be had: no buffer, and no group, lies across two; None: any
            size. All chunks but the last count as whole.
        cost_per_byte: of a buffer that lies there and states no costs of its own.
    """

    name: str
    capacity_bytes: int | None = None
    bank_bytes: int | None = None
    chunk_bytes: int | None = None
    cost_per_byte: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer lies.

    Attributes:
        memory: its name.
        offset: in bytes from the start of the chunk.
        chunk: which one, where the memory has several.
    """

    memory: str
    offset: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class DeviceBuffer:
    """One buffer.

    Attributes:
        id: unlike those of the others.
        size: in bytes, taken as it is: no alignment rounds it up.
        lifetimes: half-open ticks ``(start, end)``, disjoint. With ``(start, end, lower, upper)`` the buffer needs
            only its own bytes ``[lower, upper)`` in that time.
        alignment: what its offset is a multiple of, in bytes.
        costs: by name of memory, of lying there; it may lie in no other. None: in any, at the memory's cost per byte.
        pin: where it must lie; None: where there is room.
    """

    id: str
    size: int
    lifetimes: Sequence[Sequence[int]]
    alignment: int = 1
    costs: Mapping[str, int] | None = None
    pin: Place | None = None


@dataclass(frozen=True, eq=False)
class DeviceProblem:
    """Buffers to place in the memories of a device, at the least cost. Make one with `of`, which validates.

    Attributes:
        memories: the one first to which nothing needs to be moved; the order decides among equal costs.
        buffers: in any order.
        aliases: groups of buffers that share storage, each a mapping of ids to bytes from the start of the group.
            Members may share bytes with each other, with nobody else.
        disjoint: pairs of ids that must not share a byte, whatever their lifetimes.
        different_banks: pairs of ids that must not share a bank of a memory that has banks.
    """

    memories: tuple[DeviceMemory, ...]
    buffers: tuple[DeviceBuffer, ...]
    aliases: tuple[Mapping[str, int], ...] = ()
    disjoint: tuple[tuple[str, str], ...] = ()
    different_banks: tuple[tuple[str, str], ...] = ()
    _columns: dict[str, Int64Array] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        memories: Iterable[DeviceMemory],
        buffers: Iterable[DeviceBuffer],
        *,
        aliases: Iterable[Mapping[str, int]] = (),
        disjoint: Iterable[tuple[str, str]] = (),
        different_banks: Iterable[tuple[str, str]] = (),
    ) -> DeviceProblem:
        """A validated problem.

        Args:
            memories: one at least.
            buffers: with ids that differ.
            aliases: each group's least sub-offset is 0; a sub-offset is a multiple of the buffer's alignment.
            disjoint: pairs of ids.
            different_banks: pairs of ids, not of one group.

        Raises:
            InvalidProblemError: the message names the memory or the buffer at fault.
        """
        made = cls(
            tuple(memories),
            tuple(buffers),
            tuple(dict(group) for group in aliases),
            tuple((a, b) for a, b in disjoint),
            tuple((a, b) for a, b in different_banks),
        )
        made._columns.update(_Validator(made).columns())
        return made

    @classmethod
    def of_problem(cls, problem: Problem, *, memory: str = "memory") -> DeviceProblem:
        """The same problem, with the one memory that it has. Sizes are those of the problem, rounded up."""
        n = len(problem)
        ids = [str(i) for i in range(n)] if problem.ids is None else [str(name) for name in problem.ids]
        alignments = [problem.alignment_bytes] * n if problem.alignments is None else problem.alignments.tolist()
        pins = [-1] * n if problem.pinned_offsets is None else problem.pinned_offsets.tolist()
        rows = zip(
            ids, problem.sizes.tolist(), problem.starts.tolist(), problem.ends.tolist(), alignments, pins, strict=True
        )
        return cls.of(
            [DeviceMemory(memory, problem.capacity_bytes)],
            [
                DeviceBuffer(name, size, ((start, end),), alignment, pin=None if pin < 0 else Place(memory, pin))
                for name, size, start, end, alignment, pin in rows
            ],
        )

    def __len__(self) -> int:
        return len(self.buffers)

    @property
    def num_buffers(self) -> int:
        """How many buffers there are to place."""
        return len(self.buffers)

    @cached_property
    def columns(self) -> _planner.DeviceColumns:
        """What planners and checker take."""
        return _planner.DeviceColumns(**self._columns)

    @property
    def costs(self) -> Int64Array:
        """n rows with a cost for each memory; -1 where a buffer may not lie."""
        return self._columns["costs"].reshape(len(self), len(self.memories))

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Of each id, the position in ``buffers``."""
        return {buffer.id: index for index, buffer in enumerate(self.buffers)}

    def memory_index(self, name: str) -> int:
        """Of a memory, the position in ``memories``.

        Raises:
            InvalidProblemError: there is none of that name.
        """
        for index, memory in enumerate(self.memories):
            if memory.name == name:
                return index
        raise InvalidProblemError(f"there is no memory {name!r:.60}; there are {_names(self.memories)}")

    def __repr__(self) -> str:
        return f"DeviceProblem(num_buffers={len(self)}, memories={[memory.name for memory in self.memories]})"

    def save(self, path: str | Path) -> None:
        """Write a problem file, atomically; compressed when the name ends in ``.gz``."""
        form_of(DeviceProblem).write(self, path)

    @classmethod
    def load(cls, path: str | Path) -> DeviceProblem:
        """Read a problem file, trusting nothing in it.

        Raises:
            FileFormatError: it is no problem file, or states no problem.
        """
        problem: DeviceProblem = form_of(DeviceProblem).read(path)
        return problem


def _names(memories: Iterable[DeviceMemory]) -> str:
    return ", ".join(repr(memory.name)[:60] for memory in memories)


def _fail(what: str, message: str) -> InvalidProblemError:
    return InvalidProblemError(f"{what}: {message}")


class _Validator:
    """Looks at everything once, and writes down what the native code takes."""

    def __init__(self, problem: DeviceProblem) -> None:
        self._problem = problem
        self._index: dict[str, int] = {}
        self._memories: dict[str, int] = {}
        self._groups: list[int] = []
        self._sub_offsets: list[int] = []
        self._group_alignments: list[int] = []

    def columns(self) -> dict[str, Int64Array]:
        self._validate_memories()
        columns = self._buffer_columns() | self._alias_columns()
        for name, pairs in (("disjoint", self._problem.disjoint), ("different_banks", self._problem.different_banks)):
            columns[name] = self._pairs(name, pairs)
        self._validate_totals()
        memories = self._problem.memories
        columns["capacities"] = [-1 if memory.capacity_bytes is None else memory.capacity_bytes for memory in memories]
        columns["banks"] = [memory.bank_bytes or 0 for memory in memories]
        columns["chunks"] = [memory.chunk_bytes or 0 for memory in memories]
        return {name: read_only(np.array(values, dtype=np.int64)) for name, values in columns.items()}

    def _validate_memories(self) -> None:
        memories = self._problem.memories
        if not 1 <= len(memories) <= MAX_MEMORIES:
            raise InvalidProblemError(f"there must be 1 to {MAX_MEMORIES} memories, not {len(memories)}")
        for index, memory in enumerate(memories):
            what = f"memory {memory.name!r:.60}"
            if not isinstance(memory.name, str) or not memory.name:
                raise _fail(what, "its name must be a text that is not empty")
            if self._memories.setdefault(memory.name, index) != index:
                raise _fail(what, "two memories have this name")
            if memory.capacity_bytes is not None:
                _whole(what, "capacity_bytes", memory.capacity_bytes, 0, _MAX_NUMBER)
            for name in ("bank_bytes", "chunk_bytes"):
                if getattr(memory, name) is not None:
                    _whole(what, name, getattr(memory, name), 1, _MAX_NUMBER)
            _whole(what, "cost_per_byte", memory.cost_per_byte, 0, _MAX_NUMBER)

    def _buffer_columns(self) -> dict[str, list[int]]:
        buffers = self._problem.buffers
        if len(buffers) > MAX_DEVICE_BUFFERS:
            raise InvalidProblemError(f"{len(buffers)} buffers are more than the {MAX_DEVICE_BUFFERS} of a device")
        of_buffers = ("sizes", "alignments", "costs", "pin_memories", "pin_chunks", "pin_offsets")
        of_lifetimes = ("lifetime_buffers", "lifetime_starts", "lifetime_ends", "lifetime_lowers", "lifetime_uppers")
        columns: dict[str, list[int]] = {name: [] for name in of_buffers + of_lifetimes}
        for index, buffer in enumerate(buffers):
            what = f"buffer {buffer.id!r:.60}"
            if not isinstance(buffer.id, str):
                raise _fail(what, "its id must be a text")
            if self._index.setdefault(buffer.id, index) != index:
                raise _fail(what, "two buffers have this id")
            columns["sizes"].append(_whole(what, "size", buffer.size, 0, _MAX_NUMBER))
            columns["alignments"].append(_whole(what, "alignment", buffer.alignment, 1, MAX_ALIGNMENT))
            costs = self._costs(what, buffer)
            columns["costs"] += costs
            memory, chunk, offset = self._pin(what, buffer, costs)
            columns["pin_memories"].append(memory)
            columns["pin_chunks"].append(chunk)
            columns["pin_offsets"].append(offset)
            for start, end, lower, upper in _lifetimes(what, buffer):
                for name, value in zip(of_lifetimes, (index, start, end, lower, upper), strict=True):
                    columns[name].append(value)
        if sum(cost for cost in columns["costs"] if cost > 0) > MAX_TOTAL_BYTES:
            raise InvalidProblemError(f"the costs sum to more than {MAX_TOTAL_BYTES}")
        return columns

    def _costs(self, what: str, buffer: DeviceBuffer) -> list[int]:
        memories = self._problem.memories
        if buffer.costs is None:
            return [memory.cost_per_byte * buffer.size for memory in memories]
        for name, cost in buffer.costs.items():
            if name not in self._memories:
                raise _fail(what, f"there is no memory {name!r:.60}; there are {_names(memories)}")
            _whole(what, f"the cost in {name!r:.60}", cost, 0, _MAX_NUMBER)
        if not buffer.costs:
            raise _fail(what, "costs name no memory: it could lie nowhere")
        return [buffer.costs.get(memory.name, -1) for memory in memories]

    def _pin(self, what: str, buffer: DeviceBuffer, costs: list[int]) -> tuple[int, int, int]:
        pin = buffer.pin
        if pin is None:
            return -1, 0, 0
        index = self._memories.get(pin.memory, -1) if isinstance(pin.memory, str) else -1
        if index < 0 or costs[index] < 0:
            raise _fail(what, f"it is pinned to memory {pin.memory!r:.60}, where it may not lie")
        _whole(what, "the offset of its pin", pin.offset, 0, _MAX_NUMBER)
        _whole(what, "the chunk of its pin", pin.chunk, 0, _MAX_NUMBER)
        chunk_bytes = self._problem.memories[index].chunk_bytes
        if pin.chunk and chunk_bytes is None:
            raise _fail(what, f"it is pinned to chunk {pin.chunk} of a memory without chunks")
        if pin.offset % buffer.alignment:
            raise _fail(what, f"its pin {pin.offset} is not a multiple of its alignment {buffer.alignment}")
        return index, pin.chunk, pin.offset

    def _alias_columns(self) -> dict[str, list[int]]:
        buffers = self._problem.buffers
        self._groups = [-1] * len(buffers)
        self._sub_offsets = [0] * len(buffers)
        for number, group in enumerate(self._problem.aliases):
            what = f"group {number} of aliases"
            members = [self._named(what, name) for name in group]
            if not members:
                raise _fail(what, "it has no buffers")
            alignment, pins, num_lifetimes = 1, set(), 0
            for index, (name, sub_offset) in zip(members, group.items(), strict=True):
                buffer = buffers[index]
                _whole(what, f"the sub-offset of {name!r:.60}", sub_offset, 0, _MAX_NUMBER)
                if self._groups[index] >= 0:
                    raise _fail(what, f"buffer {name!r:.60} is in another group too")
                if sub_offset % buffer.alignment:
                    raise _fail(
                        what,
                        f"the sub-offset {sub_offset} of {name!r:.60} is not a multiple of its alignment "
                        f"{buffer.alignment}",
                    )
                self._groups[index], self._sub_offsets[index] = number, sub_offset
                alignment = math.lcm(alignment, buffer.alignment)
                num_lifetimes += len(buffer.lifetimes)
                if buffer.pin is not None:
                    pins.add((buffer.pin.memory, buffer.pin.chunk, buffer.pin.offset - sub_offset))
            if min(group.values()) != 0:
                raise _fail(what, "its sub-offsets must begin at 0")
            self._group_alignments.append(alignment)
            if alignment > MAX_ALIGNMENT:
                raise _fail(what, f"its alignments have no common multiple up to {MAX_ALIGNMENT}")
            if len(pins) > 1 or any(offset < 0 for _, _, offset in pins):
                raise _fail(what, "its pins contradict its sub-offsets")
            if num_lifetimes > MAX_LIFETIMES_OF_GROUP:
                raise _fail(what, f"its buffers have more than {MAX_LIFETIMES_OF_GROUP} lifetimes")
        return {"groups": self._groups, "sub_offsets": self._sub_offsets}

    def _pairs(self, name: str, pairs: Sequence[tuple[str, str]]) -> list[int]:
        found: list[int] = []
        for pair in pairs:
            what = f"{name} {pair[0]!r:.60}, {pair[1]!r:.60}"
            a, b = (self._named(what, buffer) for buffer in pair)
            if a == b:
                raise _fail(what, "a pair needs two buffers")
            if self._groups[a] >= 0 and self._groups[a] == self._groups[b]:
                sizes = [self._problem.buffers[index].size for index in (a, b)]
                low, high = sorted(((self._sub_offsets[a], sizes[0]), (self._sub_offsets[b], sizes[1])))
                if name == "different_banks" or (low[0] + low[1] > high[0] and sizes[0] and sizes[1]):
                    raise _fail(what, "they alias, so that they lie as their group says")
            found += (a, b)
        return found

    def _named(self, what: str, name: str) -> int:
        index = self._index.get(name, -1) if isinstance(name, str) else -1
        if index < 0:
            raise _fail(what, f"there is no buffer {name!r:.60}")
        return index

    def _validate_totals(self) -> None:
        """What a plan that reuses nothing takes must be a number, whichever chunk and bank it begins in."""
        buffers = self._problem.buffers
        pins = [buffer.pin for buffer in buffers if buffer.pin is not None]
        total = sum(buffer.size + buffer.alignment for buffer in buffers) + sum(self._sub_offsets)
        total += max((pin.offset for pin in pins), default=0)
        common = math.lcm(1, *{buffer.alignment for buffer in buffers})
        largest = max((pin.chunk for pin in pins), default=0) + len(buffers) + 1
        for memory in self._problem.memories:
            if memory.bank_bytes is not None:
                total += 2 * math.lcm(memory.bank_bytes, *self._group_alignments) * (len(buffers) + 1)
                total += max((math.lcm(memory.bank_bytes, buffer.alignment) for buffer in buffers), default=0)
            if memory.chunk_bytes is not None:
                alignment = math.lcm(common, memory.bank_bytes or 1)
                total += (memory.chunk_bytes + alignment) * largest
        if total > MAX_TOTAL_BYTES:
            raise InvalidProblemError(
                f"sizes, alignments, banks, chunks and pins sum to more than the {MAX_TOTAL_BYTES} bytes that can be "
                "planned"
            )


def _lifetimes(what: str, buffer: DeviceBuffer) -> list[tuple[int, int, int, int]]:
    found = []
    for lifetime in buffer.lifetimes:
        if len(lifetime) not in (2, 4):
            raise _fail(
                what, f"the lifetime {tuple(lifetime)!r:.60} must be (start, end) or (start, end, lower, upper)"
            )
        start, end, lower, upper = (*lifetime, 0, buffer.size)[:4]
        for tick in (start, end):
            _whole(what, "a tick", tick, -_MAX_TICK, _MAX_TICK)
        if start >= end:
            raise _fail(what, f"its lifetime [{start}, {end}) is empty; the start must be below the end")
        _whole(what, "the first of the bytes in use", lower, 0, buffer.size)
        _whole(what, "the end of the bytes in use", upper, lower, buffer.size)
        found.append((int(start), int(end), int(lower), int(upper)))
    if not found:
        raise _fail(what, "it has no lifetime")
    found.sort()
    for before, after in itertools.pairwise(found):
        if before[1] > after[0]:
            raise _fail(what, f"its lifetimes [{before[0]}, {before[1]}) and [{after[0]}, {after[1]}) overlap")
    return found


def _whole(what: str, name: str, value: object, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not lowest <= value <= highest:
        raise _fail(what, f"{name} = {value!r:.60} must be a whole number between {lowest} and {highest}")
    return int(value)
