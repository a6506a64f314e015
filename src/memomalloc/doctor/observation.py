"""What was seen while a program ran."""

from __future__ import annotations

import dataclasses
import itertools
import json
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memomalloc.doctor.arenas import Arenas

PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True)
class Sample:
    """The process at one moment.

    Attributes:
        at_s: since the program began.
        resident_bytes: physical memory.
        minor_faults: page faults without a disk, since the program began.
        cpu_s: processor time of all threads, since the program began.
        kernel_s: the kernel's part of it.
    """

    at_s: float
    resident_bytes: int
    minor_faults: int
    cpu_s: float
    kernel_s: float


@dataclass(frozen=True)
class Holder:
    """Tensors of one origin that were alive at the end.

    Attributes:
        origin: operator, module and source line.
        num_tensors: how many.
        num_bytes: of all of them.
    """

    origin: str
    num_tensors: int
    num_bytes: int


@dataclass(frozen=True)
class Observation:
    """One run of a program.

    Attributes:
        samples: in order of time; at least two.
        live_bytes: tensors that were reachable at some moments: seconds since the program began, and bytes.
        retained_bytes: what the allocator gave back at the end when it was asked to.
        arenas: glibc's arenas before that; None for another allocator.
        allocator: the allocator underneath.
        holders: of what was alive at the end, by bytes; only of a run that was recorded.
        error: the exception that ended the program; empty if it ran through.
    """

    samples: tuple[Sample, ...]
    live_bytes: tuple[tuple[float, int], ...]
    retained_bytes: int
    arenas: Arenas | None
    allocator: str
    holders: tuple[Holder, ...] = ()
    error: str = ""

    #: Building models and warming up is no growth: it is counted from this share of the run on.
    WARM_UP_SHARE = 0.3

    @property
    def warm(self) -> Sample:
        """The first sample after the warm-up."""
        end_s = self.samples[-1].at_s
        return next(sample for sample in self.samples if sample.at_s >= self.WARM_UP_SHARE * end_s)

    @property
    def growth_bytes(self) -> int:
        """By how much physical memory grew after the warm-up."""
        return self.samples[-1].resident_bytes - self.warm.resident_bytes

    @property
    def live_growth_bytes(self) -> int:
        """By how much reachable tensors grew after the warm-up, as nearly as they were looked at."""
        if len(self.live_bytes) < 2:
            return 0
        *earlier, (_, last) = self.live_bytes
        _, warm = min(earlier, key=lambda look: abs(look[0] - self.warm.at_s))
        return last - warm

    @property
    def cpu_s(self) -> float:
        """Processor time after the warm-up."""
        return self.samples[-1].cpu_s - self.warm.cpu_s

    @property
    def repeated_faults(self) -> float:
        """Page faults after the warm-up that did not make the process grow: memory given back and taken again."""
        samples = self.samples[self.samples.index(self.warm) :]
        repeated = 0.0
        for earlier, later in itertools.pairwise(samples):
            grown = max(later.resident_bytes - earlier.resident_bytes, 0) / PAGE_BYTES
            repeated += max(later.minor_faults - earlier.minor_faults - grown, 0)
        return repeated

    @property
    def fault_share(self) -> float:
        """An estimate of the share of the processor time after the warm-up that went into repeated page faults.

        It is the kernel's time, by the share of the faults that were repeated.
        """
        faults = self.samples[-1].minor_faults - self.warm.minor_faults
        if self.cpu_s <= 0 or faults <= 0:
            return 0.0
        kernel_s = self.samples[-1].kernel_s - self.warm.kernel_s
        return kernel_s / self.cpu_s * self.repeated_faults / faults

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Observation:
        """Read what :meth:`save` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(
            samples=tuple(Sample(**sample) for sample in values["samples"]),
            live_bytes=tuple((at_s, num) for at_s, num in values["live_bytes"]),
            retained_bytes=values["retained_bytes"],
            arenas=None if values["arenas"] is None else Arenas(**values["arenas"]),
            allocator=values["allocator"],
            holders=tuple(Holder(**holder) for holder in values["holders"]),
            error=values["error"],
        )
