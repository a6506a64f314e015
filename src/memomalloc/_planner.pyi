"""The planners and the checker. Callers validate; see memomalloc.data and memomalloc.planners."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.int64]

def planner_names() -> list[str]: ...
def plan(
    planner: str,
    sizes: _Array,
    starts: _Array,
    ends: _Array,
    alignments: _Array | None,
    pins: _Array | None,
    capacity: int | None,
    time_limit_s: float,
    seed: int,
    warm_start: _Array | None,
    progress: Callable[[int], bool] | None,
) -> tuple[_Array | None, int, str, bool, bool, bool]:
    """Returns offsets, arena, planner, proven_optimal, proven_infeasible, interrupted."""

def lower_bound(sizes: _Array, starts: _Array, ends: _Array, alignments: _Array | None, pins: _Array | None) -> int: ...
def find_overlap(sizes: _Array, starts: _Array, ends: _Array, offsets: _Array) -> tuple[int, int]: ...
def peak_live_bytes(sizes: _Array, starts: _Array, ends: _Array) -> int: ...

class DeviceColumns:
    """The columns of a problem for a device; what is flattened goes row by row."""

    def __init__(
        self,
        *,
        capacities: _Array,
        banks: _Array,
        chunks: _Array,
        sizes: _Array,
        alignments: _Array,
        costs: _Array,
        groups: _Array,
        sub_offsets: _Array,
        pin_memories: _Array,
        pin_chunks: _Array,
        pin_offsets: _Array,
        lifetime_buffers: _Array,
        lifetime_starts: _Array,
        lifetime_ends: _Array,
        lifetime_lowers: _Array,
        lifetime_uppers: _Array,
        disjoint: _Array,
        different_banks: _Array,
    ) -> None: ...

def plan_device(
    columns: DeviceColumns,
    time_limit_s: float,
    seed: int,
    warm_start: tuple[_Array, _Array, _Array] | None,
    progress: Callable[[int], bool] | None,
) -> tuple[tuple[_Array, _Array, _Array] | None, int, int, _Array, bool, bool, bool, bool]:
    """Returns places (memories, chunks, offsets), cost, its lower bound, bytes of each memory, proven_cheapest,
    proven_optimal, proven_infeasible, interrupted."""

def find_device_fault(
    columns: DeviceColumns, memories: _Array, chunks: _Array, offsets: _Array
) -> tuple[int, int, int]:
    """Returns the number of a fault, 0 for none, and the buffers at fault, -1 for none."""
