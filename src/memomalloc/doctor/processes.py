"""What the system tells of a process from outside: memory, page faults, processor time, threads, children."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """A process at one moment.

    Attributes:
        at_s: since it was first looked at.
        resident_bytes: physical memory.
        unbacked_bytes: the part of it that is of no file on a disk.
        minor_faults: page faults without a disk, since the process began.
        cpu_s: processor time of all threads, since the process began.
        kernel_s: the kernel's part of it.
        num_threads: threads.
        children_bytes: memory that the processes that it started, and theirs, have for themselves.
        num_children: how many they are.
    """

    at_s: float
    resident_bytes: int
    unbacked_bytes: int
    minor_faults: int
    cpu_s: float
    kernel_s: float
    num_threads: int
    children_bytes: int = 0
    num_children: int = 0


@dataclass(frozen=True)
class Child:
    """A process that the watched one has started, or that one of these has.

    Attributes:
        pid: its number.
        command: its command line.
        private_bytes: memory that it has for itself.
        shared_bytes: resident memory that other processes have as well.
    """

    pid: int
    command: str
    private_bytes: int
    shared_bytes: int


def sample(pid: int, began_s: float, children: tuple[Child, ...] = (), own_threads: int = 0) -> Sample | None:
    """Look at a process from outside; None if it is gone.

    Args:
        pid: its number.
        began_s: of ``time.monotonic()``, when it was first looked at.
        children: as they were seen last.
        own_threads: so many of its threads are not the program's.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # After the name, which may have anything in it: state is 0, and so on.
            words = stat.read().rpartition(b")")[2].split()
        memory = _kib(f"/proc/{pid}/status")
    except (OSError, ValueError):
        return None
    if words[0] in (b"Z", b"X") or "VmRSS" not in memory:
        return None
    user_s, kernel_s = int(words[11]) / _TICKS_PER_S, int(words[12]) / _TICKS_PER_S
    return Sample(
        at_s=time.monotonic() - began_s,
        resident_bytes=memory["VmRSS"] << 10,
        # The kernel has told these apart since 4.5.
        unbacked_bytes=(memory.get("RssAnon", memory["VmRSS"]) + memory.get("RssShmem", 0)) << 10,
        minor_faults=int(words[7]),
        cpu_s=user_s + kernel_s,
        kernel_s=kernel_s,
        num_threads=int(words[17]) - own_threads,
        children_bytes=sum(child.private_bytes for child in children),
        num_children=len(children),
    )


def descendants(pid: int) -> tuple[Child, ...]:
    """The processes that a process has started, and that those have, and so on, by number."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    words = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if words[0] not in (b"Z", b"X"):
                parents[int(name)] = int(words[1])
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        held = [child for child, its_parent in parents.items() if its_parent == parent]
        waiting += held
        found += held
    return tuple(child for child in map(_child, sorted(found)) if child is not None)


def _child(pid: int) -> Child | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            command = cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip()
        kib = _kib(f"/proc/{pid}/smaps_rollup")
    except (OSError, ValueError):
        return None
    if not command:  # a kernel's, or one that ends
        return None
    private = kib.get("Private_Clean", 0) + kib.get("Private_Dirty", 0)
    return Child(pid, command, private << 10, (kib.get("Rss", 0) - private) << 10)


def _kib(path: str) -> dict[str, int]:
    """The figures in KiB of a file of ``/proc``, by name."""
    with open(path, "rb") as file:
        lines = file.read().decode(errors="replace").splitlines()
    return {
        name: int(words[0])
        for name, _, text in (line.partition(":") for line in lines)
        if (words := text.split())[1:] == ["kB"]
    }
