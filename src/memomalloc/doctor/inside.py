"""What a process finds when it looks at itself: tensors, Python's objects and who holds them, what is free.

Runs in a fork of the process (see ``listener.py``), which it uses up: free memory is given back, lists are made. Uses
the standard library alone, and nothing of this package.
"""

from __future__ import annotations

import bisect
import ctypes
import gc
import os
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Objects up to this size lie in Python's own heap, larger ones come from malloc.
MAX_SMALL_BYTES = 512
#: A holder is told of from this many bytes on.
MIN_HOLDER_BYTES = 1 << 20
#: Whoever is held has this share of what its holder holds, or the holder is where the search ends.
MIN_HELD_SHARE = 0.15
MAX_DEPTH = 40
_ATOMS = frozenset((int, float, complex, bool, str, bytes, type(None)))
_NO_HOLDERS = (type, types.ModuleType, types.CodeType)


def look(pid: int, mappings: Any) -> dict[str, Any]:
    """Everything that is told of a process, as JSON has it.

    Args:
        pid: the process of which this is a fork.
        mappings: the module of that name.
    """
    # First what the looking itself changes.
    heap = _malloc()
    python_heap = _python_heap()
    mapped = [_planned(mapping, mappings) for mapping in mappings.read_mappings(pid)]
    given_back = _given_back()
    resident: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for mapping in mapped:
        resident[mapping.kind] += mapping.resident_bytes
        if mapping.kind in (mappings.FILE, mappings.SHARED):
            files[mapping.name] += mapping.resident_bytes
    walk = Walk(Pages(mapped, mappings))
    walk.run()
    return {
        "pid": pid,
        "resident": dict(resident),
        "files": dict(files.most_common(40)),
        "malloc": heap,
        "python_heap": python_heap,
        "given_back_bytes": given_back,
        **walk.found(),
    }


def _planned(mapping: Any, mappings: Any) -> Any:
    runtime = sys.modules.get("memomalloc._runtime")
    if runtime is not None and mapping.kind != mappings.FILE and runtime.is_reserved(mapping.start):
        return mapping._replace(kind=mappings.PLANNED)
    return mapping


# --- The allocator -------------------------------------------------------------------------------------------------


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _malloc() -> dict[str, Any]:
    """Which allocator it is, and its own statistics as far as it has them: bytes in use and free."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallctl"):
        return {"name": "jemalloc", "used_bytes": _jemalloc_used(libc)}
    if hasattr(libc, "MallocExtension_ReleaseFreeMemory"):
        used = ctypes.c_size_t()
        name = b"generic.current_allocated_bytes"
        known = libc.MallocExtension_GetNumericProperty(name, ctypes.byref(used))
        return {"name": "tcmalloc", "used_bytes": used.value if known else None}
    if hasattr(libc, "mi_collect"):
        return {"name": "mimalloc", "used_bytes": None}
    if not hasattr(libc, "mallinfo2"):
        return {"name": "glibc" if hasattr(libc, "gnu_get_libc_version") else "malloc", "used_bytes": None}
    libc.mallinfo2.restype = _Mallinfo
    told = libc.mallinfo2()
    return {
        "name": "glibc",
        "used_bytes": told.uordblks + told.hblkhd,
        "free_bytes": told.fordblks,
        "arenas": _arenas(libc),
    }


def _jemalloc_used(libc: Any) -> int | None:
    epoch, used = ctypes.c_uint64(1), ctypes.c_size_t()
    length = ctypes.c_size_t(8)
    libc.mallctl(b"epoch", None, None, ctypes.byref(epoch), length)
    failed = libc.mallctl(b"stats.allocated", ctypes.byref(used), ctypes.byref(length), None, ctypes.c_size_t(0))
    return None if failed else used.value


def _arenas(libc: Any) -> list[int] | None:
    """Free bytes of each of glibc's heaps, that of the main thread first."""
    text, length = ctypes.c_char_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(length)))
    if not stream:
        return None
    failed = libc.malloc_info(0, stream)
    libc.fclose(stream)
    return None if failed or text.value is None else parse_arenas(text.value.decode())


def parse_arenas(text: str) -> list[int] | None:
    """Read the XML that ``malloc_info`` writes; None if it is not that."""
    try:
        heaps = ElementTree.fromstring(text).findall("heap")
        # "fast" and "rest" are chunks that were freed; the chunk at the top is in "rest" too.
        return [
            sum(
                int(total.attrib["size"]) for total in heap.findall("total") if total.attrib["type"] in ("fast", "rest")
            )
            for heap in heaps
        ] or None
    except (ElementTree.ParseError, KeyError, ValueError):
        return None


def _given_back() -> int:
    """Resident bytes that the allocator gives back when it is asked to, which is done."""
    libc = ctypes.CDLL(None)
    before = _anonymous_bytes()
    if hasattr(libc, "mallctl"):
        none, length = None, ctypes.c_size_t(0)
        libc.mallctl(b"thread.tcache.flush", none, none, none, length)
        libc.mallctl(b"arena.4096.purge", none, none, none, length)  # 4096: all arenas
    elif hasattr(libc, "MallocExtension_ReleaseFreeMemory"):
        libc.MallocExtension_ReleaseFreeMemory()
    elif hasattr(libc, "mi_collect"):
        libc.mi_collect(True)
    elif hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return max(before - _anonymous_bytes(), 0)


def _anonymous_bytes() -> int:
    with open("/proc/self/statm") as statm:
        _, resident, shared, *_ = (int(word) for word in statm.read().split())
    return (resident - shared) * PAGE_BYTES


def _python_heap() -> dict[str, int]:
    """Bytes that Python's own heap has mapped, and those in use; empty where it cannot say."""
    if not hasattr(sys, "_debugmallocstats") or not hasattr(os, "memfd_create"):
        return {}
    stderr = os.dup(2)
    with open(os.memfd_create("statistics"), "w+b", buffering=0) as told:
        os.dup2(told.fileno(), 2)
        sys._debugmallocstats()
        os.dup2(stderr, 2)
        os.close(stderr)
        told.seek(0)
        return parse_python_heap(told.read().decode(errors="replace"))


def parse_python_heap(text: str) -> dict[str, int]:
    """Read what ``sys._debugmallocstats`` prints; empty if it is not that."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.rpartition("=")
        if equals and "bytes/arena" in name:
            found["mapped_bytes"] = int(value.replace(",", ""))
        elif equals and name.strip() == "# bytes in allocated blocks":
            found["used_bytes"] = int(value.replace(",", ""))
    return found if len(found) == 2 else {}


# --- Pages ---------------------------------------------------------------------------------------------------------


class Pages:
    """Which pages of this process are there, and in what kind of mapping."""

    _IS_PRESENT = bytes(255 if value & 0x80 else 0 for value in range(256))

    def __init__(self, mapped: list[Any], mappings: Any) -> None:
        self._mapped = mapped
        self._starts = [mapping.start for mapping in mapped]
        self._own_kinds = (mappings.FILE, mappings.SHARED, mappings.PLANNED)
        try:
            self._pagemap: int | None = os.open("/proc/self/pagemap", os.O_RDONLY)
        except OSError:
            self._pagemap = None

    def is_counted(self, address: int) -> bool:
        """Whether what lies there is counted by its mapping already: a file, shared or planned memory."""
        at = bisect.bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._mapped[at].end and self._mapped[at].kind in self._own_kinds

    def resident(self, address: int, num_bytes: int) -> int:
        """Of so many bytes, those that are resident."""
        if self._pagemap is None or num_bytes < 16 * PAGE_BYTES:
            return num_bytes
        first, last = address // PAGE_BYTES, (address + num_bytes - 1) // PAGE_BYTES
        try:
            entries = os.pread(self._pagemap, 8 * (last - first + 1), 8 * first)
        except OSError:
            return num_bytes
        present = entries[7::8].translate(self._IS_PRESENT).count(255)
        return min(present * PAGE_BYTES, num_bytes)


# --- Objects -------------------------------------------------------------------------------------------------------


class Walk:
    """All objects that Python can reach, each with the one that was found to hold it first, from modules inwards."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._torch: Any = sys.modules.get("torch")
        if getattr(self._torch, "Tensor", None) is None or getattr(self._torch, "nn", None) is None:
            self._torch = None  # not there, or still being imported
        self._array: Any = getattr(sys.modules.get("numpy"), "ndarray", None)
        self._objects: list[Any] = []
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._roots: list[str] = []
        self._storages: set[int] = set()
        self._weights: set[int] = set()
        self._nodes: set[Any] = set()
        self._mine: set[int] = {id(self), id(self.__dict__)}
        self._num_of_type: Counter[type] = Counter()
        self._bytes_of_type: Counter[type] = Counter()
        self._large_bytes = 0
        self._unreachable_bytes = 0
        self._tensors = {"weights_bytes": 0, "other_bytes": 0, "autograd_bytes": 0, "num_tensors": 0}

    def run(self) -> None:
        """Walk."""
        gc.disable()
        tracked = gc.get_objects()
        self._find_weights(tracked)
        seen: set[int] = {id(tracked), id(seen_frames := sys._current_frames())}
        for name in ("_objects", "_parents", "_sizes", "_roots", "_storages", "_weights", "_nodes", "_mine"):
            seen.add(id(getattr(self, name)))
        seen.update(self._mine)
        for name, thing in self._named_roots(seen_frames):
            if id(thing) not in seen:
                seen.add(id(thing))
                self._add(thing, -1 - len(self._roots))
                self._roots.append(name)
        self._follow(0, seen)
        num_reached = len(self._objects)
        self._roots.append("")
        frame: Any = sys._getframe()
        ours = set()
        while frame is not None:  # of this very fork
            ours.add(id(frame))
            frame = frame.f_back
        for thing in tracked:
            if id(thing) not in seen and id(thing) not in ours:
                seen.add(id(thing))
                self._add(thing, -len(self._roots))
        self._follow(num_reached, seen)
        self._unreachable_bytes = sum(self._sizes[num_reached:])

    def found(self) -> dict[str, Any]:
        """What was found."""
        types_ = {
            f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."): [
                self._num_of_type[kind],
                self._bytes_of_type[kind],
            ]
            for kind, _ in self._bytes_of_type.most_common(30)
        }
        return {
            "tensors": self._tensors,
            "objects": {"num": len(self._objects), "large_bytes": self._large_bytes},
            "types": types_,
            "unreachable_bytes": self._unreachable_bytes,
            "holders": [list(holder) for holder in self._holders()],
        }

    def _named_roots(self, frames: dict[int, Any]) -> Iterator[tuple[str, Any]]:
        own = "_memomalloc_"
        main = sys.modules.get("__main__")
        modules = [("__main__", main), *((name, module) for name, module in sys.modules.items() if module is not main)]
        for name, module in modules:
            if isinstance(module, types.ModuleType) and not name.startswith(own):
                yield name, module.__dict__
        for frame in frames.values():
            inner: Any = frame
            while inner is not None:
                code = inner.f_code
                is_own = "/memomalloc/doctor/" in code.co_filename
                if not is_own and code.co_name != "<module>":
                    yield f"{code.co_name}() of {os.path.basename(code.co_filename)}", dict(inner.f_locals)
                inner = inner.f_back

    def _add(self, thing: Any, parent: int) -> None:
        self._objects.append(thing)
        self._parents.append(parent)
        self._sizes.append(self._size(thing))

    def _size(self, thing: Any) -> int:
        kind = type(thing)
        torch = self._torch
        if torch is not None and issubclass(kind, (torch.Tensor, torch.UntypedStorage)):
            return self._tensor_bytes(thing) if issubclass(kind, torch.Tensor) else 0
        if torch is not None and issubclass(kind, torch.storage.TypedStorage):
            return 0
        try:
            size = int(sys.getsizeof(thing))
        except Exception:  # of the program: it may raise anything
            size = 0
        self._num_of_type[kind] += 1
        self._bytes_of_type[kind] += size
        if size > MAX_SMALL_BYTES:
            self._large_bytes += size
        return size

    def _follow(self, at: int, seen: set[int]) -> None:
        referents, size_of, saw = gc.get_referents, sys.getsizeof, seen.add
        objects, sizes, num, num_bytes = self._objects, self._sizes, self._num_of_type, self._bytes_of_type
        while at < len(objects):
            thing = objects[at]
            held = referents(thing)
            if self._array is not None and type(thing) is self._array and thing.base is not None:
                held.append(thing.base)
            for other in held:
                number = id(other)
                if number in seen:
                    continue
                saw(number)
                kind = type(other)
                if kind in _ATOMS and (size := size_of(other)) <= MAX_SMALL_BYTES:
                    # Most of what there is: it holds nothing, and counts as its holder's.
                    num[kind] += 1
                    num_bytes[kind] += size
                    sizes[at] += size
                else:
                    self._add(other, at)
            at += 1

    # --- Tensors

    def _find_weights(self, tracked: list[Any]) -> None:
        if self._torch is None:
            return
        for thing in tracked:
            # Not isinstance(): a class may lie about its class, and run code to do it.
            if issubclass(type(thing), self._torch.nn.Module):
                state = object.__getattribute__(thing, "__dict__")
                for name in ("_parameters", "_buffers"):
                    for tensor in (state.get(name) or {}).values():
                        if isinstance(tensor, self._torch.Tensor):
                            self._weights.update(address for address, _ in self._storage(tensor))

    def _storage(self, tensor: Any) -> list[tuple[int, int]]:
        try:
            if tensor.device.type != "cpu" or tensor.layout is not self._torch.strided:
                return []
            storage = self._torch.Tensor.untyped_storage(tensor)
            return [(storage.data_ptr(), storage.nbytes())]
        except Exception:  # a tensor without storage (of FakeTensor's kind)
            return []

    def _tensor_bytes(self, tensor: Any) -> int:
        self._tensors["num_tensors"] += 1
        size = self._count(tensor, "other_bytes")
        try:
            node = tensor.grad_fn
        except Exception:
            node = None
        return size + (self._saved_bytes([node]) if node is not None else 0)

    def _count(self, tensor: Any, kind: str) -> int:
        """Resident bytes of a storage that was not counted before."""
        size = 0
        for address, num_bytes in self._storage(tensor):
            if address and address not in self._storages:
                self._storages.add(address)
                if not self._pages.is_counted(address):
                    size = self._pages.resident(address, num_bytes)
                    self._tensors["weights_bytes" if address in self._weights else kind] += size
        return size

    def _saved_bytes(self, nodes: list[Any]) -> int:
        """What autograd keeps for a backward pass, which no Python object shows."""
        size = 0
        while nodes:
            node = nodes.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes.add(node)
            for name in dir(node):
                if name.startswith("_saved_"):
                    try:
                        saved = getattr(node, name)
                    except RuntimeError:  # freed by a backward pass
                        continue
                    for tensor in saved if isinstance(saved, (tuple, list)) else (saved,):
                        if isinstance(tensor, self._torch.Tensor):
                            size += self._count(tensor, "autograd_bytes")
            nodes += [following for following, _ in node.next_functions]
        return size

    # --- Who holds what

    def _holders(self) -> Iterator[tuple[str, str, int]]:
        """The names under which most bytes are reached: a path, what is there, bytes."""
        totals = list(self._sizes)
        for at in range(len(totals) - 1, -1, -1):
            parent = self._parents[at]
            if parent >= 0:
                totals[parent] += totals[at]
        large: dict[int, list[int]] = {}
        for at, total in enumerate(totals):
            if total >= MIN_HOLDER_BYTES:
                large.setdefault(self._parents[at], []).append(at)
        found: list[tuple[int, int]] = []
        waiting = [(at, 0) for parent, held in large.items() if parent < 0 for at in held]
        while waiting:
            at, depth = waiting.pop()
            # A namespace is opened whatever it holds.
            least = MIN_HOLDER_BYTES if self._parents[at] < 0 else MIN_HELD_SHARE * totals[at]
            held = [other for other in large.get(at, ()) if totals[other] >= least]
            if depth < MAX_DEPTH and held and (self._parents[at] < 0 or 2 * sum(totals[o] for o in held) >= totals[at]):
                waiting += [(other, depth + 1) for other in held]
            elif not isinstance(self._objects[at], _NO_HOLDERS):
                found.append((totals[at], at))
        for total, at in sorted(found, reverse=True)[:20]:
            yield self._path(at), self._what(self._objects[at]), total

    def _what(self, thing: Any) -> str:
        name = type(thing).__name__
        article = "an" if name[:1].lower() in "aeiou" else "a"
        if isinstance(thing, (list, tuple, dict, set, frozenset)) or name == "deque":
            return f"{article} {name} of {len(thing):,}"
        return f"{article} {name}"

    def _path(self, at: int) -> str:
        steps = []
        while self._parents[at] >= 0:
            steps.append(self._step(self._objects[self._parents[at]], self._objects[at]))
            at = self._parents[at]
        root = self._roots[-1 - self._parents[at]]
        path = "".join(reversed(steps)).lstrip(".")
        if not root:
            return f"{path or type(self._objects[at]).__name__}, which no module reaches"
        return f"{path} in {root}" if path else f"the names of {root}"

    def _step(self, holder: Any, held: Any) -> str:
        try:
            if isinstance(holder, dict):
                for key, value in list(dict.items(holder)):
                    if value is held:
                        return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r:.30}]"
                return ""
            if isinstance(holder, (list, tuple)):
                return next((f"[{i}]" for i, value in enumerate(holder) if value is held), "")
            state = getattr(holder, "__dict__", None)
            if held is state:
                return ""
            for key, value in (state or {}).items():
                if value is held:
                    return f".{key}"
            if isinstance(holder, types.FunctionType):
                return ".__closure__" if held is holder.__closure__ else ""
        except Exception:  # of the program: it may raise anything
            pass
        return ""
