"""One account of a process's resident memory: parts that add up, each with where its figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memomalloc.doctor import mappings

WEIGHTS = "weights and buffers"
TENSORS = "tensors alive"
AUTOGRAD = "kept for a backward pass"
PLANNED = "planned memory"
PYTHON = "Python's objects"
PYTHON_FREE = "free in Python's heap"
FREE = "free in the allocator"
FRAGMENTS = "small free pieces in the allocator"
NATIVE = "in use by native code"
CODE = "compiled code"
STACKS = "stacks of threads"
FILES = "files mapped"
SHARED = "shared memory"
UNEXPLAINED = "not explained"

#: Each part, and the source of its figure.
SOURCES: dict[str, str] = {
    WEIGHTS: "parameters and buffers of torch's modules, pages that are resident",
    TENSORS: "other tensors that Python reaches",
    AUTOGRAD: "tensors that autograd saved",
    PLANNED: "smaps: memomalloc's range of addresses",
    PYTHON: "sys: objects that Python reaches, and its heap",
    PYTHON_FREE: "sys._debugmallocstats",
    FREE: "what a copy of the process gave back when it was asked to",
    FRAGMENTS: "mallinfo2, free without those above",
    NATIVE: "the allocator's statistics, in use without those above",
    CODE: "smaps: executable, of no file",
    STACKS: "smaps: stacks",
    FILES: "smaps: libraries and their variables, mapped weights",
    SHARED: "smaps: /dev/shm, memfd, shared anonymous",
    UNEXPLAINED: "smaps: the rest",
}


@dataclass(frozen=True)
class Arenas:
    """glibc's heaps at one moment.

    Attributes:
        num_arenas: how many there are, the main one included.
        main_free_bytes: in the main arena, free but not given back to the system.
        other_free_bytes: the same in all others.
    """

    num_arenas: int
    main_free_bytes: int
    other_free_bytes: int


@dataclass(frozen=True)
class Holder:
    """A name under which a program reaches memory.

    Attributes:
        path: as ``kept in __main__``.
        what: as ``a list of 100``.
        num_bytes: all that is reached by it and by no name before.
    """

    path: str
    what: str
    num_bytes: int


@dataclass(frozen=True)
class Account:
    """What a process's resident memory is for, at one moment.

    Attributes:
        parts: bytes, by the names of `SOURCES`; their sum is what is resident.
        allocator: the name of the one underneath; empty where nobody could ask.
        arenas: glibc's heaps, before they were asked to give memory back; None for another allocator.
        holders: names under which Python reaches most, largest first.
        types: of Python's objects: how many, and their bytes; largest first.
        files: of mapped files and shared memory: resident bytes, by name.
        unreachable_bytes: in objects that no module and no running function reaches: in cycles, or held by native code.
    """

    parts: Mapping[str, int]
    allocator: str = ""
    arenas: Arenas | None = None
    holders: tuple[Holder, ...] = ()
    types: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    unreachable_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    @property
    def given_back_bytes(self) -> int:
        """What the allocator gives back if it is asked to."""
        return self.parts.get(FREE, 0)

    @property
    def explained_share(self) -> float:
        """The share of resident memory that is accounted for."""
        return 1 - self.parts.get(UNEXPLAINED, 0) / max(self.resident_bytes, 1)

    def growth_since(self, earlier: Account) -> dict[str, int]:
        """By how much each part grew, in bytes; negative where it shrank."""
        return {name: self.parts.get(name, 0) - earlier.parts.get(name, 0) for name in SOURCES}

    def holders_since(self, earlier: Account, least_bytes: int) -> tuple[Holder, ...]:
        """Holders that grew by so much, with their growth, largest first."""
        before = {holder.path: holder.num_bytes for holder in earlier.holders}
        grown = [
            Holder(holder.path, holder.what, holder.num_bytes - before.get(holder.path, 0)) for holder in self.holders
        ]
        return tuple(sorted((h for h in grown if h.num_bytes >= least_bytes), key=lambda h: -h.num_bytes))


def account_of(told: Mapping[str, Any]) -> Account:
    """The account of what a process told of itself (see ``inside.look``)."""
    resident: Mapping[str, int] = told["resident"]
    malloc, heap, tensors = told["malloc"], told["python_heap"], told["tensors"]
    large = told["objects"]["large_bytes"]
    parts, left = _parts_by_kind(resident)

    def take(name: str, num_bytes: int) -> None:
        """Never more than is there: a figure of bytes in use may count pages that were never touched."""
        nonlocal left
        parts[name] = max(min(num_bytes, left), 0)
        left -= parts[name]

    take(FREE, told["given_back_bytes"])
    take(WEIGHTS, tensors["weights_bytes"])
    take(TENSORS, tensors["other_bytes"])
    take(AUTOGRAD, tensors["autograd_bytes"])
    take(PYTHON, heap.get("used_bytes", 0) + large)
    take(PYTHON_FREE, heap.get("mapped_bytes", 0) - heap.get("used_bytes", 0))
    if malloc.get("used_bytes") is not None:
        tensor_bytes = tensors["weights_bytes"] + tensors["other_bytes"] + tensors["autograd_bytes"]
        take(NATIVE, malloc["used_bytes"] - tensor_bytes - large)
        take(FRAGMENTS, malloc.get("free_bytes", 0) - told["given_back_bytes"])
    parts[UNEXPLAINED] = left
    arenas = malloc.get("arenas")
    return Account(
        parts={name: parts.get(name, 0) for name in SOURCES},
        allocator=malloc["name"],
        arenas=Arenas(len(arenas), arenas[0], sum(arenas[1:])) if arenas else None,
        holders=tuple(Holder(*holder) for holder in told["holders"]),
        types={name: (num, size) for name, (num, size) in told["types"].items()},
        files=told["files"],
        unreachable_bytes=told["unreachable_bytes"],
    )


def account_from_outside(pid: int) -> Account:
    """As much of an account as the system gives without the process's help.

    Raises:
        OSError: there is no such process, or it is another user's.
    """
    resident: dict[str, int] = {}
    files: dict[str, int] = {}
    found = mappings.read_mappings(pid)
    for mapping in found:
        resident[mapping.kind] = resident.get(mapping.kind, 0) + mapping.resident_bytes
        if mapping.kind in (mappings.FILE, mappings.SHARED):
            files[mapping.name] = files.get(mapping.name, 0) + mapping.resident_bytes
    parts, left = _parts_by_kind(resident)
    parts[UNEXPLAINED] = left
    return Account(parts={name: parts.get(name, 0) for name in SOURCES}, files=files)


def _parts_by_kind(resident: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """The parts that the kinds of mappings alone tell, and the bytes of all others: allocators', mostly."""
    kinds = {
        CODE: mappings.CODE,
        STACKS: mappings.STACK,
        FILES: mappings.FILE,
        SHARED: mappings.SHARED,
        PLANNED: mappings.PLANNED,
    }
    parts = {name: resident.get(kind, 0) for name, kind in kinds.items()}
    return parts, sum(resident.get(kind, 0) for kind in (mappings.DATA, mappings.HEAP, mappings.ARENA))
