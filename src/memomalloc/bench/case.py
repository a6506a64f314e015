"""What one row measures: a model in one situation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

#: How a model is run, in the order in which reports list them.
MODES = ("eager", "torchscript", "compile", "compile-memory-planning")


@dataclass(frozen=True, order=True)
class Case:
    """One model in one situation.

    Attributes:
        suite: the suite that the model belongs to.
        model: its name in the suite.
        batch: how many samples one call takes.
        input_size: side of the square image, tokens or frames; see :class:`memomalloc.bench.model.Model`.
        workers: threads that call at once.
        intra_op_threads: threads that torch may use inside one operator.
        mode: how the model is run; see :data:`MODES`.
        upstream: the allocator underneath; see :mod:`memomalloc.bench.upstream`.
    """

    suite: str
    model: str
    batch: int
    input_size: int
    workers: int = 1
    intra_op_threads: int = 1
    mode: str = "eager"
    upstream: str = "glibc"

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.model}, batch {self.batch}, size {self.input_size}"]
        if self.workers > 1:
            parts.append(f"{self.workers} workers")
        if self.intra_op_threads > 1:
            parts.append(f"{self.intra_op_threads} intra-op threads")
        if self.mode != "eager":
            parts.append(self.mode)
        return ", ".join([*parts, self.upstream])
