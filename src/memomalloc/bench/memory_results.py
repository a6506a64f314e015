"""What a comparison of whole processes' memory found, and what it was taken on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench.document import checked, results_from, save_document
from memomalloc.bench.machine import describe_machine, describe_versions, without_load

FORMAT = "memomalloc-memory-results"
VERSION = 1

#: What stands in place of a policy where nothing is planned.
PLAIN = "plain"


@dataclass(frozen=True)
class MemoryCase:
    """Which process is measured, over which allocator, and how it is planned.

    Attributes:
        process: its name.
        upstream: the allocator underneath.
        shapes: the policy of ``memomalloc.optimize``; :data:`PLAIN` without memomalloc.
    """

    process: str
    upstream: str
    shapes: str

    def __str__(self) -> str:
        return f"{self.process}, {self.shapes}, over {self.upstream}"


@dataclass(frozen=True)
class MemoryRow:
    """The memory of one process: by how much it is larger than when it had loaded its models.

    Attributes:
        process, upstream, shapes: as in :class:`MemoryCase`.
        num_calls: of models.
        end_bytes: after the last call, while the program holds what it returned.
        peak_bytes: the most there was, with all that learning took.
        released_bytes: without outputs, when planned memory was given back; that without memomalloc as it is.
        trimmed_bytes: when the allocator underneath was told to give back what it can as well.
        output_bytes: of the tensors that the program holds at the end.
        num_recordings: calls that were recorded.
        served_share: of the requests of replayed calls; None: nothing was replayed.
        num_replayed: calls that were replayed.
        num_plans: armed at the end.
        num_regions: that have memory at the end.
        largest_arena_bytes: of the plans that are armed at the end.
        cpu_s: processor time of all calls.
        error: why there are no figures; empty if there are.
    """

    process: str
    upstream: str
    shapes: str
    num_calls: int = 0
    end_bytes: int = 0
    peak_bytes: int = 0
    released_bytes: int = 0
    trimmed_bytes: int = 0
    output_bytes: int = 0
    num_recordings: int = 0
    served_share: float | None = None
    num_replayed: int = 0
    num_plans: int = 0
    num_regions: int = 0
    largest_arena_bytes: int = 0
    cpu_s: float = 0.0
    error: str = ""

    @property
    def case(self) -> MemoryCase:
        """What was measured."""
        return MemoryCase(self.process, self.upstream, self.shapes)

    @property
    def is_planned(self) -> bool:
        """Whether memomalloc was used."""
        return self.shapes != PLAIN


@dataclass
class MemoryResults:
    """All that one measuring session found.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        seed: of weights, inputs and the order of calls.
        rounds: in which every call is made once.
        smoke: whether all was small, only to see that it works.
        processes: what each holds and does, by name.
        environment: for each upstream, the variables that its process ran with.
        rows: in the order in which they were measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    seed: int
    rounds: int
    smoke: bool
    processes: dict[str, str] = field(default_factory=dict)
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: list[MemoryRow] = field(default_factory=list)

    @classmethod
    def here(cls, *, seed: int, rounds: int, smoke: bool) -> MemoryResults:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), seed, rounds, smoke)

    def conditions(self) -> dict[str, Any]:
        """What must be the same where rows of two sessions stand side by side: all but how busy the machine was."""
        return {
            "machine": without_load(self.machine),
            "versions": self.versions,
            "seed": self.seed,
            "rounds": self.rounds,
            "smoke": self.smoke,
        }

    def plain(self, process: str, upstreams: Sequence[str]) -> list[MemoryRow]:
        """The rows of a process without memomalloc over some allocators, as far as they were measured."""
        return [
            row
            for row in self.rows
            if row.process == process and row.upstream in upstreams and not row.is_planned and not row.error
        ]

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> MemoryResults:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, lambda row: checked(MemoryRow, row, where="row"))

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        save_document(path, self, file_format=FORMAT, version=VERSION)
