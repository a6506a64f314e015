"""What the mappings of a process are for, and how much of each is resident: read from ``/proc/PID/smaps``.

Uses the standard library alone, and nothing of this package: it is also loaded inside processes that are watched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Kinds of mappings. Whatever has no file, is no stack, no code and not shared is data: allocators', mostly.
FILE, SHARED, CODE, STACK, HEAP, ARENA, DATA, PLANNED = (
    "file",
    "shared",
    "code",
    "stack",
    "heap",
    "arena",
    "data",
    "planned",
)

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+\s*(.*)")
_SHARED_MEMORY = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero")
#: glibc aligns the heaps of threads like this.
_ARENA_BYTES = 64 << 20
#: The part without access before a thread's stack is no larger.
_MAX_GUARD_BYTES = 1 << 20


class Mapping(NamedTuple):
    """One mapping.

    Attributes:
        start, end: its addresses.
        access: as ``rw-p``.
        name: of a file, or what the kernel calls it; empty where it has none.
        resident_bytes: of it, the pages that are there.
        kind: what it is for.
    """

    start: int
    end: int
    access: str
    name: str
    resident_bytes: int
    kind: str


def read_mappings(pid: int | str) -> list[Mapping]:
    """All mappings of a process, by address.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as smaps:
        return list(_with_kinds(list(_parse(smaps))))


def _parse(lines: Iterable[str]) -> Iterator[Mapping]:
    found: Mapping | None = None
    for line in lines:
        if line.startswith("Rss:") and found is not None:
            yield found._replace(resident_bytes=int(line.split()[1]) << 10)
            found = None
        elif (header := _HEADER.match(line)) is not None:
            start, end, access, name = header.groups()
            found = Mapping(int(start, 16), int(end, 16), access, name, 0, DATA)


def _with_kinds(mappings: list[Mapping]) -> Iterator[Mapping]:
    for before, mapping in zip([None, *mappings], mappings):  # noqa: B905
        yield mapping._replace(kind=_kind(mapping, before))


def _kind(mapping: Mapping, before: Mapping | None) -> str:
    name = mapping.name
    if name.startswith(_SHARED_MEMORY) or (not name and mapping.access.endswith("s")):
        return SHARED
    if name.startswith("/"):
        return FILE
    if name.startswith("[heap"):
        return HEAP
    if name.startswith("[stack"):
        return STACK
    if name.startswith("[v"):  # vdso, vvar
        return FILE
    if "x" in mapping.access:
        return CODE
    if mapping.start % _ARENA_BYTES == 0 and mapping.end - mapping.start <= _ARENA_BYTES:
        return ARENA
    # A library's variables that begin as zeros lie behind those that its file has: cuBLAS has 90 MB of them.
    if before is not None and ".so" in before.name and "w" in before.access and before.end == mapping.start:
        return FILE
    guarded = before is not None and before.access.startswith("---") and before.end == mapping.start
    if guarded and before is not None and before.end - before.start <= _MAX_GUARD_BYTES:
        return STACK
    return DATA
