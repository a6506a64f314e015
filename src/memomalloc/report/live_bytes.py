"""How many bytes are alive at each tick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memomalloc.data.columns import Int64Array


@dataclass(frozen=True, eq=False)
class LiveBytes:
    """A step function of time.

    Attributes:
        ticks: where it changes, increasing.
        live_bytes: its value from each of the ticks to the next.
        peak_tick: the first tick of the largest value; 0 if there is no buffer.
        peak_live_bytes: the largest value.
    """

    ticks: Int64Array
    live_bytes: Int64Array
    peak_tick: int
    peak_live_bytes: int

    @classmethod
    def of(cls, sizes: Int64Array, starts: Int64Array, ends: Int64Array) -> LiveBytes:
        """The sum of the sizes of n buffers over their half-open lifetimes."""
        if not len(sizes):
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 0)
        ticks, which = np.unique(np.concatenate([starts, ends]), return_inverse=True)
        changes = np.zeros(len(ticks), dtype=np.int64)
        np.add.at(changes, which, np.concatenate([sizes, -sizes]))
        live = np.cumsum(changes)
        peak = int(np.argmax(live))
        return cls(ticks, live, int(ticks[peak]), int(live[peak]))
