"""One trace that covers several: shapes that vary, branches that are taken or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import numpy as np

from memomalloc.data.columns import BoolArray, Int64Array
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.errors import InvalidProblemError

#: Two traces of one program agree on at least this share of who asked; below it their source lines are left aside,
#: since the calls came from different places.
_MIN_COMMON_SHARE = 0.5


@dataclass
class _Aligned:
    """One buffer of the merged trace: the buffers it stands for, by number of the trace."""

    token: Hashable
    members: dict[int, int] = field(default_factory=dict)


def merge(traces: Sequence[Trace]) -> Trace:
    """Align traces of one program, and make the trace whose plan serves them all.

    Buffers are aligned by origin (operators, module path, source line), in order. An aligned buffer has the largest
    size that was asked for, remembers the smallest, and lives as long as in any of the traces; a buffer that only
    some traces have keeps its place in the order. Ticks of the result count its allocations.

    A replay of the plan of the merged trace steps over the buffers that a run does not ask for.

    Args:
        traces: at least one, of the same program; the order does not matter much. A merged trace may be merged again.

    Raises:
        InvalidProblemError: there are no traces.
    """
    if not traces:
        raise InvalidProblemError("merge() needs at least one trace")
    if len(traces) == 1:
        return traces[0]
    with_source = _share_in_common(traces, with_source=True) >= _MIN_COMMON_SHARE
    merged: list[_Aligned] = []
    for number, trace in enumerate(traces):
        merged = _align(merged, number, _tokens(trace, with_source))
    return _union(merged, traces)


def is_told_by_size(trace: Trace, merged: Trace, alignment_bytes: int) -> bool:
    """Whether a replay that knows nothing but sizes would find for each buffer of a trace one that the same asked for.

    Args:
        trace: of one call.
        merged: of that call and others, as :func:`merge` made it. No buffer may be smaller than its smallest size.
        alignment_bytes: to which sizes are rounded up.
    """
    sizes, smallest, largest = (
        (-(-array // alignment_bytes)).tolist() for array in (trace.sizes, merged.smallest_sizes, merged.sizes)
    )
    slot = 0
    for size, origin in zip(sizes, trace.origins, strict=True):
        while slot < merged.num_buffers and not smallest[slot] <= size <= largest[slot]:
            slot += 1
        if slot == merged.num_buffers or _token(merged.origins[slot], False) != _token(origin, False):
            return False
        slot += 1
    return True


def in_slots(trace: Trace) -> Trace:
    """The same trace as :func:`merge` gives it: its ticks count its allocations."""
    return _union([_Aligned(None, {0: buffer}) for buffer in range(trace.num_buffers)], [trace])


def _tokens(trace: Trace, with_source: bool) -> list[Hashable]:
    return [_token(origin, with_source) for origin in trace.origins]


def _token(origin: Origin | None, with_source: bool) -> Hashable:
    if origin is None:
        return None
    return (origin.operators, origin.module_path, origin.source if with_source else None)


def _share_in_common(traces: Sequence[Trace], with_source: bool) -> float:
    """The smallest share of a trace's tokens that the first trace has as well."""
    first = set(_tokens(traces[0], with_source))
    shares = [
        sum(token in first for token in tokens) / len(tokens)
        for tokens in (_tokens(trace, with_source) for trace in traces[1:])
        if tokens
    ]
    return min(shares, default=1.0)


def _align(merged: list[_Aligned], number: int, tokens: list[Hashable]) -> list[_Aligned]:
    """Put the buffers of one more trace beside those that they match, and the others between."""
    result: list[_Aligned] = []
    next_merged = next_buffer = 0
    for begin_merged, begin_buffer, length in _matching_blocks([entry.token for entry in merged], tokens):
        result += merged[next_merged:begin_merged]
        result += [_Aligned(tokens[buffer], {number: buffer}) for buffer in range(next_buffer, begin_buffer)]
        for offset in range(length):
            entry = merged[begin_merged + offset]
            entry.members[number] = begin_buffer + offset
            result.append(entry)
        next_merged, next_buffer = begin_merged + length, begin_buffer + length
    return result


def _matching_blocks(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int, int]]:
    """Where two sequences are equal: begin in ``a``, begin in ``b``, length, in order; an empty block at the end.

    What both begin and end with is taken off first: the rest takes time in the square of its length.
    """
    shorter = min(len(a), len(b))
    head = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    tail = next((i for i in range(shorter - head) if a[-1 - i] != b[-1 - i]), shorter - head)
    matcher = SequenceMatcher(None, a[head : len(a) - tail], b[head : len(b) - tail], autojunk=False)
    middle = [(head + i, head + j, length) for i, j, length in matcher.get_matching_blocks()]
    return [(0, 0, head), *middle, (len(a) - tail, len(b) - tail, tail)]


def _union(merged: list[_Aligned], traces: Sequence[Trace]) -> Trace:
    n = len(merged)
    sizes = np.zeros(n, dtype=np.int64)
    smallest_sizes = np.full(n, np.iinfo(np.int64).max)
    ends = np.zeros(n, dtype=np.int64)
    escapes = np.zeros(n, dtype=np.bool_)
    for number, trace in enumerate(traces):
        slots = np.array([slot for slot, entry in enumerate(merged) if number in entry.members], dtype=np.int64)
        # Aligned in order: the i-th slot of a trace is its i-th buffer.
        np.maximum.at(sizes, slots, trace.sizes)
        np.minimum.at(smallest_sizes, slots, trace.smallest_sizes)
        np.maximum.at(ends, slots, _ends_in_slots(trace, slots, n))
        np.logical_or.at(escapes, slots, trace.escapes)
    return Trace.from_arrays(
        sizes,
        np.arange(n, dtype=np.int64),
        ends,
        escapes,
        end_tick=n,
        origins=_number_again([_origin_of(entry, traces) for entry in merged], escapes),
        smallest_sizes=smallest_sizes,
    )


def _ends_in_slots(trace: Trace, slots: Int64Array, end: int) -> Int64Array:
    """For each buffer the slot of the first allocation after its free: its bytes may be used again from there on."""
    next_allocation = np.searchsorted(trace.starts, trace.ends)
    return np.append(slots, end)[next_allocation]


def _origin_of(entry: _Aligned, traces: Sequence[Trace]) -> Origin | None:
    number, buffer = next(iter(entry.members.items()))
    return traces[number].origins[buffer]


def _number_again(origins: Sequence[Origin | None], escapes: BoolArray) -> list[Origin | None]:
    """Origins that are unique in the merged trace."""
    seen: Counter[Origin] = Counter()
    numbered: list[Origin | None] = []
    for origin, escape in zip(origins, escapes.tolist(), strict=True):
        if origin is not None:
            same = replace(origin, role="escape" if escape else origin.role, occurrence=0)
            origin = replace(same, occurrence=seen[same])
            seen[same] += 1
        numbered.append(origin)
    return numbered
