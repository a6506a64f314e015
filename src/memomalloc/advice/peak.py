"""Why the peak is as high as it is: what each buffer that is alive then is there for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memomalloc.advice.proposal import outermost, place
from memomalloc.advice.subject import Subject
from memomalloc.data.byte_text import byte_text
from memomalloc.data.origin import Origin, SourceLine

#: What a buffer is alive for, in the order in which it is told.
SCRATCH = "scratch of the operator that runs"
RESULT = "made by the operator that runs"
READ = "read by the operator that runs"
WAITS = "read later"
OUTLIVES = "kept until the end"
IDLE = "read no more"
_REASONS = (SCRATCH, RESULT, READ, WAITS, OUTLIVES, IDLE)


@dataclass(frozen=True)
class Peak:
    """The moment at which most bytes are alive.

    Attributes:
        tick: of the allocation that makes the peak.
        peak_bytes: what is alive then.
        operator: the operator that the program called; empty where none ran.
        module_path: the module that called it.
        source: the line that called it.
        bytes_by_reason: what the buffers that are alive are there for, and their bytes.
        reasons: for each buffer that is alive then its index, and what it is there for.
    """

    tick: int
    peak_bytes: int
    operator: str
    module_path: str
    source: SourceLine | None
    bytes_by_reason: dict[str, int]
    reasons: tuple[tuple[int, str], ...]

    @property
    def text(self) -> str:
        """A sentence for a person."""
        what = f"while {self.operator} runs" if self.operator else "while no operator runs"
        where = f" at {place(self.source)}" if self.source else ""
        module = f" in {self.module_path}" if self.module_path else ""
        parts = ", ".join(f"{byte_text(num_bytes)} {reason}" for reason, num_bytes in self.bytes_by_reason.items())
        return f"{byte_text(self.peak_bytes)} are alive {what}{where}{module}: {parts}"


def peak_of(subject: Subject) -> Peak:
    """Explain the peak of a trace."""
    trace = subject.trace
    alive = np.flatnonzero(subject.before.alive)
    tick = int(trace.starts[alive].max(initial=0))
    ran = int(np.searchsorted(subject.calls.ends, tick, side="right"))
    runs = ran if ran < len(subject.calls) and subject.calls.begins[ran] <= tick else -1
    origin = subject.origin(runs) if runs >= 0 else Origin(role="call")
    totals = dict.fromkeys(_REASONS, 0)
    reasons = tuple((buffer, _reason(subject, buffer, runs, tick)) for buffer in alive.tolist())
    for buffer, reason in reasons:
        totals[reason] += int(trace.sizes[buffer])
    return Peak(
        tick,
        subject.before.peak_bytes,
        outermost(origin) if runs >= 0 else "",
        origin.module_path,
        origin.source,
        {reason: total for reason, total in totals.items() if total},
        reasons,
    )


def _reason(subject: Subject, buffer: int, runs: int, tick: int) -> str:
    if runs >= 0 and subject.makers[buffer] == runs:
        return SCRATCH if buffer in subject.scratch[runs] else RESULT
    if runs in subject.readers[buffer]:
        return READ
    if any(subject.end(reader) > tick for reader in subject.readers[buffer]):
        return WAITS
    return OUTLIVES if subject.trace.escapes[buffer] else IDLE
