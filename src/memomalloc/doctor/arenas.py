"""What glibc says about its heaps: one for the main thread, others for threads that came while those were in use."""

from __future__ import annotations

import ctypes
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass


@dataclass(frozen=True)
class Arenas:
    """glibc's arenas at one moment.

    Attributes:
        num_arenas: how many there are, the main one included.
        main_free_bytes: in the main arena, free but not given back to the system.
        other_free_bytes: the same in all others.
    """

    num_arenas: int
    main_free_bytes: int
    other_free_bytes: int


def read_arenas() -> Arenas | None:
    """Ask glibc; None where another C library is underneath, or where it cannot say."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_info") or not hasattr(libc, "open_memstream"):
        return None
    text, length = ctypes.c_char_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(length)))
    if not stream:
        return None
    failed = libc.malloc_info(0, stream)
    libc.fclose(stream)
    try:
        return None if failed or text.value is None else parse_arenas(text.value.decode())
    finally:
        libc.free(text)


def parse_arenas(text: str) -> Arenas | None:
    """Read the XML that ``malloc_info`` writes; None if it is not that."""
    try:
        heaps = ElementTree.fromstring(text).findall("heap")
        free = [_free_bytes(heap) for heap in heaps]
    except (ElementTree.ParseError, KeyError, ValueError):
        return None
    if not free:
        return None
    return Arenas(num_arenas=len(free), main_free_bytes=free[0], other_free_bytes=sum(free[1:]))


def _free_bytes(heap: ElementTree.Element) -> int:
    # "fast" and "rest" are chunks that were freed; the chunk at the top is in "rest" too.
    return sum(int(total.attrib["size"]) for total in heap.findall("total") if total.attrib["type"] in ("fast", "rest"))
