"""Where the buffers of a device lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memomalloc.data.columns import Int64Array
from memomalloc.data.device_problem import DeviceProblem, Place
from memomalloc.data.forms import form_of


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """A place for every buffer of a device. Made by `memomalloc.plan_device` or `DevicePlan.load`, which check it.

    Attributes:
        problem: what it solves.
        memories: of each buffer, the position of its memory in ``problem.memories``.
        chunks: of each buffer, which chunk of the memory.
        offsets: of each buffer, bytes from the start of the chunk.
        cost: of all places together.
        lower_bound_cost: no plan costs less.
        proven_cheapest: no plan costs less than this one.
        proven_optimal: and none of that cost needs fewer bytes in the memories that have no capacity.
        elapsed_s: how long planning took, with preparation and check.
    """

    problem: DeviceProblem
    memories: Int64Array
    chunks: Int64Array
    offsets: Int64Array
    cost: int
    lower_bound_cost: int
    proven_cheapest: bool
    proven_optimal: bool
    elapsed_s: float

    def __len__(self) -> int:
        return len(self.offsets)

    def place(self, buffer: str | int) -> Place:
        """Where a buffer lies.

        Args:
            buffer: its id, or its position in the problem.

        Raises:
            KeyError: there is none of that id.
        """
        index = self.problem.index_of[buffer] if isinstance(buffer, str) else buffer
        memory = self.problem.memories[int(self.memories[index])].name
        return Place(memory, int(self.offsets[index]), int(self.chunks[index]))

    @property
    def arena_bytes(self) -> dict[str, int]:
        """What is needed of each memory, by name: the highest top, with all chunks before it as whole."""
        found = {memory.name: 0 for memory in self.problem.memories}
        for buffer, memory_index, chunk, offset in zip(
            self.problem.buffers, self.memories.tolist(), self.chunks.tolist(), self.offsets.tolist(), strict=True
        ):
            if buffer.size:
                memory = self.problem.memories[memory_index]
                top = chunk * (memory.chunk_bytes or 0) + offset + buffer.size
                found[memory.name] = max(found[memory.name], top)
        return found

    def chunk_bytes(self, memory: str) -> list[int]:
        """What is needed of each chunk of a memory: its highest top."""
        index = self.problem.memory_index(memory)
        tops: dict[int, int] = {}
        for buffer, own, chunk, offset in zip(
            self.problem.buffers, self.memories.tolist(), self.chunks.tolist(), self.offsets.tolist(), strict=True
        ):
            if own == index and buffer.size:
                tops[chunk] = max(tops.get(chunk, 0), offset + buffer.size)
        return [tops.get(chunk, 0) for chunk in range(max(tops, default=-1) + 1)]

    def by_id(self) -> Mapping[str, Place]:
        """Where each buffer lies."""
        return {buffer.id: self.place(index) for index, buffer in enumerate(self.problem.buffers)}

    def __repr__(self) -> str:
        return (
            f"DevicePlan(num_buffers={len(self)}, cost={self.cost}, arena_bytes={self.arena_bytes}, "
            f"proven_cheapest={self.proven_cheapest}, proven_optimal={self.proven_optimal})"
        )

    def save(self, path: str | Path) -> None:
        """Write a device plan file, atomically; compressed when the name ends in ``.gz``."""
        form_of(DevicePlan).write(self, path)

    @classmethod
    def load(cls, path: str | Path, problem: DeviceProblem) -> DevicePlan:
        """Read a device plan file, trusting nothing in it: it is checked against its problem.

        Raises:
            FileFormatError: it is no device plan file, or no plan of this problem.
        """
        plan: DevicePlan = form_of(DevicePlan).read(path, problem)
        return plan


def columns_of(problem: DeviceProblem, places: Mapping[str, Place]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Memories, chunks and offsets of all buffers of a problem; memory -1 for those that have no place.

    A memory that the problem does not have is no place.
    """
    names = {memory.name: index for index, memory in enumerate(problem.memories)}
    memories = np.full(len(problem), -1, dtype=np.int64)
    chunks, offsets = np.zeros(len(problem), dtype=np.int64), np.zeros(len(problem), dtype=np.int64)
    for index, buffer in enumerate(problem.buffers):
        place = places.get(buffer.id)
        if place is not None and place.memory in names:
            memories[index], chunks[index], offsets[index] = names[place.memory], place.chunk, place.offset
    return memories, chunks, offsets


def cost_of(problem: DeviceProblem, memories: Int64Array) -> int:
    """What places cost together; each buffer's memory must be one where it may lie."""
    return int(np.take_along_axis(problem.costs, memories[:, None], axis=1).sum())
