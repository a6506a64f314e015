"""What the system counts of this process: memory, page faults, CPU time, context switches."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """Counters of the whole process, all threads; only their differences mean anything.

    Attributes:
        minor_faults: pages that the kernel had to map without reading a disk.
        cpu_s: time on a processor, in the program and in the kernel.
        kernel_s: the part of it in the kernel.
        voluntary_switches: waits for a lock, another thread or a device.
    """

    minor_faults: int = 0
    cpu_s: float = 0.0
    kernel_s: float = 0.0
    voluntary_switches: int = 0

    @classmethod
    def now(cls) -> Usage:
        """Read the counters. Takes about a microsecond and no page fault."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_minflt, used.ru_utime + used.ru_stime, used.ru_stime, used.ru_nvcsw)

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.minor_faults - earlier.minor_faults,
            self.cpu_s - earlier.cpu_s,
            self.kernel_s - earlier.kernel_s,
            self.voluntary_switches - earlier.voluntary_switches,
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.minor_faults + other.minor_faults,
            self.cpu_s + other.cpu_s,
            self.kernel_s + other.kernel_s,
            self.voluntary_switches + other.voluntary_switches,
        )


def resident_bytes(process: int | None = None) -> int:
    """Physical memory of a process, this one unless another is given."""
    return _status_bytes("VmRSS", process)


def peak_resident_bytes(process: int | None = None) -> int:
    """The most physical memory since a process began, or since :func:`reset_peak_resident`.

    Linux counts pages processor by processor and may miss 32 of each, of memory that was given back since.
    """
    return _status_bytes("VmHWM", process)


def reset_peak_resident(process: int | None = None) -> None:
    """Make :func:`peak_resident_bytes` start again from what is resident now.

    Raises:
        OSError: the system does not let a process do this.
    """
    (_folder(process) / "clear_refs").write_text("5\n")


def _folder(process: int | None) -> Path:
    return _PROCESSES / ("self" if process is None else str(process))


def _status_bytes(name: str, process: int | None) -> int:
    path = _folder(process) / "status"
    with path.open() as status:
        for line in status:
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    raise OSError(f"{path} has no {name}")
