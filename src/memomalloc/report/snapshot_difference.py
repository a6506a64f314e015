"""What grew from one snapshot to another, by who asked for it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from memomalloc.data.origin import Origin
from memomalloc.data.snapshot import SnapshotMemory
from memomalloc.report.difference import Difference, Figure, changes_of, group_name
from memomalloc.report.live_bytes import LiveBytes
from memomalloc.report.snapshot_account import Account, account_of


def snapshot_difference(before: SnapshotMemory, after: SnapshotMemory, *, by: str = "source") -> Difference:
    """Compare two memories group by group.

    Args:
        before: one of them.
        after: the other.
        by: one of `report.difference.DIFFERENCE_BY`.
    """
    accounts = [account_of(memory, with_period=False) for memory in (before, after)]
    names = (
        "allocated at the peak",
        "reserved at the peak",
        "fragmentation at the peak",
        "reserved at most",
        "lower bound",
        "allocated at the end",
        "reserved at the end",
        "buffers",
    )
    figures = [Figure(*row) for row in zip(names, *map(_figures, accounts), strict=True)]
    changes, num_unchanged = changes_of(_groups(before, by), _groups(after, by))
    return Difference(tuple(figures), changes, num_unchanged)


def _figures(account: Account) -> tuple[int, ...]:
    peak, end = account.peak, account.end
    return (
        peak.allocated_bytes,
        peak.reserved_bytes,
        peak.fragmentation_bytes,
        account.peak_reserved_bytes,
        account.lower_bound_bytes,
        end.allocated_bytes,
        end.reserved_bytes,
        account.num_buffers,
    )


def _groups(memory: SnapshotMemory, by: str) -> dict[str, tuple[int, int, int]]:
    """Number of buffers, bytes, and bytes at the peak of each group; one step for each call stack, not each buffer."""
    tick = LiveBytes.of(memory.sizes, memory.starts, memory.ends).peak_tick
    at_peak = np.where((memory.starts <= tick) & (tick < memory.ends), memory.sizes, 0)
    # Without a call stack buffers are told apart by their size.
    keys, which = np.unique(
        np.stack([memory.stacks, np.where(memory.stacks < 0, memory.sizes, 0)]), axis=1, return_inverse=True
    )
    which = which.reshape(-1)
    columns = [np.bincount(which, minlength=keys.shape[1])]
    for values in (memory.sizes, at_peak):
        sums = np.zeros(keys.shape[1], dtype=np.int64)
        np.add.at(sums, which, values)
        columns.append(sums)
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for (stack, size), *numbers in zip(keys.T.tolist(), *(column.tolist() for column in columns), strict=True):
        origin = None if stack < 0 else Origin(*memory.call_stacks.asker(stack))
        row = found[group_name(origin, size, by)]
        for i, number in enumerate(numbers):
            row[i] += number
    return {name: (row[0], row[1], row[2]) for name, row in found.items()}
