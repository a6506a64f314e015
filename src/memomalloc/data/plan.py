"""The planner's output: one offset per buffer, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memomalloc.data.columns import BoolArray, Int64Array
from memomalloc.data.forms import form_of
from memomalloc.data.problem import Problem
from memomalloc.data.trace import stretch_escapes

MAX_ARENA_BYTES = 2**38
"""Of a plan that is read, unless its reader says otherwise."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where every buffer goes. Made by `memomalloc.plan` or `Plan.load`, both of which check it.

    Attributes:
        sizes: bytes, multiples of ``alignment_bytes``; in the order of the trace or problem.
        starts: first tick of each lifetime, as in the trace or problem.
        ends: first tick after each lifetime.
        offsets: bytes from the base of the arena.
        escapes: the buffer outlives the run; its bytes are no other buffer's, whatever its lifetime.
        smallest_sizes: bytes; the smallest request that the slot may serve.
        arena_bytes: the largest offset plus size, of the buffers that have bytes.
        lower_bound_bytes: the largest sum of sizes alive at one tick, or the end of the highest pinned buffer; no plan
            can be smaller.
        planner: who found it.
        proven_optimal: no smaller arena is possible.
        elapsed_s: how long planning took, with preparation and check.
        alignment_bytes: what every offset is a multiple of.
        alignments: bytes per buffer where they differ from each other, else None.
        pinned_offsets: the offset that a buffer had to get, -1 for a free one; None if no buffer was pinned.
    """

    sizes: Int64Array
    starts: Int64Array
    ends: Int64Array
    offsets: Int64Array
    escapes: BoolArray
    smallest_sizes: Int64Array
    arena_bytes: int
    lower_bound_bytes: int
    planner: str
    proven_optimal: bool
    elapsed_s: float
    alignment_bytes: int
    alignments: Int64Array | None = None
    pinned_offsets: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_buffers(self) -> int:
        """How many buffers have a place."""
        return len(self.sizes)

    @property
    def gap(self) -> float:
        """How much larger the arena is than the lower bound, as a share of the bound: 0.0 is perfect."""
        if self.lower_bound_bytes == 0:
            return 0.0
        return (self.arena_bytes - self.lower_bound_bytes) / self.lower_bound_bytes

    @cached_property
    def problem(self) -> Problem:
        """What this plan solves. Escapes live through the whole of it."""
        starts, ends = stretch_escapes(self.starts, self.ends, self.escapes)
        return Problem.from_arrays(
            self.sizes,
            starts,
            ends,
            alignment_bytes=self.alignment_bytes,
            alignments=self.alignments,
            pinned_offsets=self.pinned_offsets,
        )

    def __repr__(self) -> str:
        # Not all columns: a session or a log would drown in them.
        return (
            f"Plan(num_buffers={len(self)}, arena_bytes={self.arena_bytes}, "
            f"lower_bound_bytes={self.lower_bound_bytes}, planner={self.planner!r}, "
            f"proven_optimal={self.proven_optimal})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return form_of(Plan).show(self)

    def save(self, path: str | Path) -> None:
        """Write a plan file, atomically; compressed when the name ends in ``.gz``."""
        form_of(Plan).write(self, path)

    @classmethod
    def load(cls, path: str | Path, *, max_arena_bytes: int = MAX_ARENA_BYTES) -> Plan:
        """Read a plan file, trusting nothing in it: the plan is checked like a new one.

        Args:
            path: the file.
            max_arena_bytes: a larger arena is refused.

        Raises:
            FileFormatError: it is not a whole, undamaged file of a valid plan.
        """
        plan: Plan = form_of(Plan).read(path, max_arena_bytes=max_arena_bytes)
        return plan
