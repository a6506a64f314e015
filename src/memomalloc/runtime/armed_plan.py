"""A plan made ready to replay: compiled once, with a pool of arenas."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np

from memomalloc.data.plan import Plan
from memomalloc.errors import ArenaError
from memomalloc.runtime import extension
from memomalloc.runtime.statistics import CallCounts, Replayed, Stats

#: How many places an escaping buffer has besides its own: one lets a program hold the last outputs while the next
#: are made.
SPARE_PLACES = 1
#: So many inferences of one plan may run at once; more of them run unplanned.
MAX_ARENAS = 256
#: Set to 1, memory is overwritten as it is freed: a tool to find programs that read freed tensors.
POISON_VARIABLE = "MEMOMALLOC_POISON"

_registry_lock = threading.Lock()
_alive: weakref.WeakSet[ArmedPlan] = weakref.WeakSet()
_retired = Replayed()
# What plans that are gone did, until the next reader adds it to `_retired`. A queue and no lock: the garbage
# collector runs finalizers in the middle of anything, also in code that holds the lock.
_just_retired: deque[Replayed] = deque()
process_calls = CallCounts()


class ArmedPlan:
    """A plan with arenas: :meth:`begin` and :meth:`end` bracket one replay.

    Arenas are mapped as runs need them, one for each that runs at a time. They are unmapped when this object is gone
    and their last tensor with it.

    Attributes:
        plan: what is replayed.
        upstream_peak_bytes: by how much the process grew when the run was recorded; 0: not known.
        num_slots: requests that one run of the plan foresees.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        upstream_peak_bytes: int = 0,
        spare_places: int = SPARE_PLACES,
        max_arenas: int = MAX_ARENAS,
    ) -> None:
        """Compile a plan.

        Args:
            plan: what to replay.
            upstream_peak_bytes: what the same run took from upstream, for the statistics; 0: not known.
            spare_places: places of an escaping buffer besides its own.
            max_arenas: so many runs at once.

        Raises:
            ArenaError: the plan's arena is larger than what can be mapped here.
            RuntimeNotAvailableError: the runtime cannot run here.
        """
        native = extension.install()
        # In the order of the requests; a buffer without bytes is never requested.
        order = np.argsort(plan.starts, kind="stable")
        order = order[plan.sizes[order] > 0]
        layout = native.Layout.compile(
            np.ascontiguousarray(plan.offsets[order]),
            np.ascontiguousarray(plan.sizes[order]),
            np.ascontiguousarray(plan.smallest_sizes[order]),
            np.ascontiguousarray(plan.escapes[order]),
            plan.arena_bytes,
            spare_places,
        )
        if layout.mapped_bytes > native.reserved_bytes():
            raise ArenaError(
                f"an arena of {layout.mapped_bytes} bytes does not fit into the {native.reserved_bytes()} bytes of "
                "address space that could be reserved; lift the limit on address space (ulimit -v)"
            )
        self.plan = plan
        self.upstream_peak_bytes = upstream_peak_bytes
        self.num_slots: int = layout.num_slots
        self._pool = native.Pool(layout, max_arenas, None, os.environ.get(POISON_VARIABLE, "") not in ("", "0"))
        #: Begins a run on this thread. A token for :attr:`end`; 0: this thread runs already; -1: there is no arena.
        self.begin: Any = self._pool.begin
        #: Ends a run: the number of requests and slots that deviated from the plan.
        self.end: Any = native.end
        with _registry_lock:
            _alive.add(self)
        weakref.finalize(self, _retire, self._pool, self.num_slots).atexit = False

    def replayed(self) -> Replayed:
        """What was replayed so far, and the memory it uses."""
        return Replayed.of_pool(self._pool.stats(), self.num_slots)


def _retire(pool: Any, num_slots: int) -> None:
    _just_retired.append(Replayed.of_pool(pool.stats(), num_slots).without_memory())


def stats_of(calls: CallCounts, armed: Collection[ArmedPlan], retired: Replayed) -> Stats:
    """Put counters together: of calls, of the plans that are armed, and of plans that are gone."""
    total = sum((plan.replayed() for plan in armed), start=retired)
    num_recorded, unplanned = calls.read()
    return Stats(
        runs_recorded=num_recorded,
        runs_replayed=total.runs,
        runs_unplanned=unplanned,
        num_plans=len(armed),
        requests_planned=total.requests_planned,
        requests_served=total.requests_served,
        requests_missing=total.requests_missing,
        requests_upstream=total.requests_upstream,
        arena_bytes=sum(plan.plan.arena_bytes for plan in armed),
        lower_bound_bytes=sum(plan.plan.lower_bound_bytes for plan in armed),
        upstream_peak_bytes=sum(plan.upstream_peak_bytes for plan in armed),
        mapped_bytes=total.mapped_bytes,
        num_arenas=total.num_arenas,
        num_arenas_in_use=total.num_arenas_in_use,
        # Without a plan there was no arena to free anything in, and the extension may not be there to ask.
        num_bad_frees=extension.install().num_bad_frees() if armed else 0,
    )


def stats() -> Stats:
    """The counters of the process: all wrappers and replays, those that are gone included."""
    global _retired
    with _registry_lock:
        armed = list(_alive)
        while _just_retired:
            _retired = _retired + _just_retired.popleft()
        retired = _retired
    return stats_of(process_calls, armed, retired)
