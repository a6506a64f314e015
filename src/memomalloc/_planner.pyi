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
    progress: Callable[[int], bool] | None,
) -> tuple[_Array | None, int, str, bool, bool, bool]:
    """Returns offsets, arena, planner, proven_optimal, proven_infeasible, interrupted."""

def lower_bound(sizes: _Array, starts: _Array, ends: _Array, alignments: _Array | None, pins: _Array | None) -> int: ...
def find_overlap(sizes: _Array, starts: _Array, ends: _Array, offsets: _Array) -> tuple[int, int]: ...
def peak_live_bytes(sizes: _Array, starts: _Array, ends: _Array) -> int: ...
