"""A plan made ready to replay: compiled once, and laid over a region of the process by each run."""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memomalloc.data.origin import Origin
from memomalloc.data.plan import Plan
from memomalloc.errors import ArenaError, InvalidPlanError
from memomalloc.runtime import extension
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.memory.askers import asker_of
from memomalloc.runtime.memory.deviations import Deviation, deviations_of
from memomalloc.runtime.memory.process_memory import RegionStats, memory_stats
from memomalloc.runtime.memory.statistics import CallCounts, Replayed, Stats

if TYPE_CHECKING:
    from memomalloc._runtime import Run

#: Set to 1, memory is overwritten as it is freed: a tool to find programs that read freed tensors.
POISON_VARIABLE = "MEMOMALLOC_POISON"

#: The alignment of every tensor that torch allocates on a CPU.
ALIGNMENT_BYTES = 64

MAX_ARENAS = 2**32 - 1

_registry = LockHolder()
_alive: weakref.WeakSet[ArmedPlan] = weakref.WeakSet()
# What plans that are gone did, until the next reader adds it to the process's counts. A queue and no lock: the garbage
# collector runs finalizers in the middle of anything, also in code that holds the lock.
_just_retired: deque[Replayed] = deque()
process_calls = CallCounts()


@dataclass(frozen=True)
class ArenaSettings:
    """How a plan is given memory.

    Attributes:
        max_arenas: so many inferences of the plan may run at once; more of them run unplanned. None: as many as memory
            allows.
        wait_s: how long a call waits for memory when there is none, before it runs unplanned.
        prefault: make the pages of a call resident as it begins, where they are not, and not at their first use.
        huge_pages: ask the system for huge pages.
        spare_places: without a meaning since outputs lie apart, as many as are held; will be removed.
        release_after_s: as :func:`memomalloc.set_release_after`, which it calls as a plan is armed; will be removed.
    """

    max_arenas: int | None = None
    wait_s: float = 0.0
    spare_places: int | None = None
    prefault: bool = False
    huge_pages: bool = False
    release_after_s: float | None = None

    def __post_init__(self) -> None:
        at_most = self.max_arenas
        if at_most is not None and (not isinstance(at_most, int) or not 0 <= at_most <= MAX_ARENAS):
            raise ValueError(f"max_arenas must be an integer from 0 to {MAX_ARENAS}, or None, not {at_most!r}")
        if self.spare_places is not None:
            _deprecated("spare_places has no meaning any more: outputs lie apart, as many as are held")
        if not 0 <= self.wait_s < threading.TIMEOUT_MAX:
            raise ValueError(f"wait_s must be a number of seconds, at least 0, not {self.wait_s!r}")
        if self.release_after_s is not None and not 0 < self.release_after_s < threading.TIMEOUT_MAX:
            raise ValueError(f"release_after_s must be None or a number of seconds, not {self.release_after_s!r}")
        if self.release_after_s is not None:
            _deprecated("release_after_s is of the whole process: call memomalloc.set_release_after()")


def _deprecated(text: str) -> None:
    warnings.warn(f"ArenaSettings: {text}", DeprecationWarning, stacklevel=4)


class ArmedPlan:
    """A plan that can be replayed: :attr:`begin` and the ``end()`` of the run that it gives bracket one replay.

    It has no memory of its own: each run lays it over a region of the process that no other run uses.

    Attributes:
        plan: what is replayed.
        upstream_peak_bytes: by how much the process grew when the run was recorded; 0: not known.
        num_slots: requests that one run of the plan foresees.
        number: of this plan, in :class:`memomalloc.runtime.memory.process_memory.RegionStats`.
        armed_at_s: when it was armed, in seconds since the epoch.
        native: the same in the native runtime.
        wait_s: how long :attr:`begin` waits for memory.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        origins: Sequence[Origin | None] = (),
        upstream_peak_bytes: int = 0,
        settings: ArenaSettings | None = None,
        budget: Any = None,
        by_origin: bool = False,
    ) -> None:
        """Compile a plan.

        Args:
            plan: what to replay.
            origins: who asks for each buffer of the plan, for reports; empty if that is not known.
            upstream_peak_bytes: what the same run took from upstream, for the statistics; 0: not known.
            settings: how it is given memory.
            budget: a native budget of bytes that its runs share with those of other plans; None: no limit.
            by_origin: match requests by the operators that ask, not by their sizes alone; needs ``origins``.

        Raises:
            ArenaError: the plan's arena is larger than what can be mapped here.
            InvalidPlanError: the plan is not aligned as tensors are.
            RuntimeNotAvailableError: the runtime cannot run here.
        """
        settings = settings or ArenaSettings()
        native = extension.install()
        if settings.release_after_s is not None:
            native.set_release_after(settings.release_after_s)
        # In the order of the requests; a buffer without bytes is never requested.
        order = np.argsort(plan.starts, kind="stable")
        order = order[plan.sizes[order] > 0]
        if plan.arena_bytes > native.reserved_bytes():
            raise _too_large(plan.arena_bytes, native.reserved_bytes())
        if plan.alignment_bytes % ALIGNMENT_BYTES != 0:
            raise InvalidPlanError(
                f"the plan is aligned to {plan.alignment_bytes} bytes, tensors need {ALIGNMENT_BYTES}: plan again with "
                f"alignment_bytes={ALIGNMENT_BYTES}"
            )
        try:
            layout = native.Layout.compile(
                np.ascontiguousarray(plan.offsets[order]),
                np.ascontiguousarray(plan.sizes[order]),
                np.ascontiguousarray(plan.smallest_sizes[order]),
                np.ascontiguousarray(plan.escapes[order]),
                np.array([asker_of(origins[index]) for index in order] if by_origin else [], dtype=np.uint32),
                plan.arena_bytes,
            )
        except ValueError as error:
            raise InvalidPlanError(f"the plan cannot be replayed: {error}") from error
        self.plan = plan
        self.upstream_peak_bytes = upstream_peak_bytes
        self.num_slots: int = layout.num_slots
        self._order = order
        self.armed_at_s = time.time()
        self._sizes = plan.sizes[order]
        self._origins = [origins[index] for index in order] if origins else []
        self.wait_s = settings.wait_s
        self.native = native.ArmedPlan(
            layout,
            settings.max_arenas,
            budget,
            poison=_poisons(),
            prefault=settings.prefault,
            huge_pages=settings.huge_pages,
        )
        self.number: int = self.native.number
        #: Begins a run on this thread, which ends with the object that comes back, or at its ``end()``.
        self.begin: Callable[[], Run] = functools.partial(self.native.begin, settings.wait_s)
        self._renew = functools.partial(
            ArmedPlan,
            plan,
            origins=origins,
            upstream_peak_bytes=upstream_peak_bytes,
            settings=settings,
            budget=budget,
            by_origin=by_origin,
        )
        with _registry.lock:
            _alive.add(self)
        weakref.finalize(self, _retire, self.native, self.num_slots).atexit = False

    def renewed(self) -> ArmedPlan:
        """The same plan armed once more: on no region where tensors of this one live on."""
        return self._renew()

    def deviations(self) -> tuple[Deviation, ...]:
        """The first requests that deviated, of the last run in which some did."""
        requests = [request[:3] for request in self.native.last_deviating_requests()]
        return deviations_of(requests, self._sizes, self._origins)

    def misfits(self) -> tuple[list[tuple[int, int]], bool]:
        """Buffers of the plan whose own operators asked for another size in the last run that deviated, and that size.

        Known only where requests are matched by origin. The second value says whether these are all that was new in
        the run: whether nobody else asked for anything.
        """
        requests = self.native.last_deviating_requests()
        misfits = [(int(self._order[slot]), asked) for slot, _, asked, by_its_asker in requests if by_its_asker]
        return misfits, all(by_its_asker or reason not in ("size", "extra") for _, reason, _, by_its_asker in requests)

    def served_share(self) -> float:
        """How much of what was asked in its runs so far was served."""
        replayed = self.replayed()
        asked = replayed.requests_served + sum(replayed.requests_upstream.values())
        return replayed.requests_served / asked if asked else 1.0

    def replayed(self) -> Replayed:
        """What was replayed so far."""
        return Replayed.of_plan(self.native.counts(), self.num_slots)


def _poisons() -> bool:
    return os.environ.get(POISON_VARIABLE, "") not in ("", "0")


@functools.cache
def _plan_of_nothing() -> Any:
    native = extension.install()
    none = np.array([], dtype=np.int64)
    layout = native.Layout.compile(none, none, none, none.astype(bool), none.astype(np.uint32), 0)
    return native.ArmedPlan(layout, poison=_poisons(), gives_way=True)


def unplanned_run() -> Run:
    """Begin a run without a plan on this thread: its large tensors come from spare memory of the process.

    It ends before where another run, or a recording, begins on the thread.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    run: Run = _plan_of_nothing().begin()
    return run


def _too_large(arena_bytes: int, reserved_bytes: int) -> ArenaError:
    return ArenaError(
        f"an arena of {arena_bytes} bytes does not fit into the {reserved_bytes} bytes of address space that could be "
        "reserved; lift the limit on address space (ulimit -v)"
    )


def _retire(native: Any, num_slots: int) -> None:
    _just_retired.append(Replayed.of_plan(native.counts(), num_slots))


def stats_of(calls: CallCounts, armed: Collection[ArmedPlan]) -> Stats:
    """Put counters together: of calls, and of the plans that are armed or gone."""
    num_recorded, unplanned, retired = calls.read()
    total = sum((plan.replayed() for plan in armed), start=retired)
    regions = regions_of(armed)
    return Stats(
        runs_recorded=num_recorded,
        runs_replayed=total.runs,
        runs_unplanned=unplanned,
        num_plans=len(armed),
        requests_planned=total.requests_planned,
        requests_served=total.requests_served,
        requests_missing=total.requests_missing,
        requests_upstream=total.requests_upstream,
        bytes_upstream=total.bytes_upstream,
        arena_bytes=sum(plan.plan.arena_bytes for plan in armed),
        lower_bound_bytes=sum(plan.plan.lower_bound_bytes for plan in armed),
        upstream_peak_bytes=sum(plan.upstream_peak_bytes for plan in armed),
        kept_regions=total.kept_regions,
        mapped_bytes=sum(region.mapped_bytes + region.output_mapped_bytes for region in regions),
        num_regions=len(regions),
        num_regions_in_use=sum(region.is_running for region in regions),
        # Without a plan there was no arena to free anything in, and the extension may not be there to ask.
        num_bad_frees=extension.install().num_bad_frees() if armed else 0,
    )


def regions_of(armed: Collection[ArmedPlan]) -> list[RegionStats]:
    """The regions that are laid with one of these plans now."""
    if not armed:
        return []
    numbers = {plan.number for plan in armed}
    return [region for region in memory_stats().regions if region.plan in numbers]


def alive() -> list[ArmedPlan]:
    """All plans of the process that are armed."""
    with _registry.lock:
        return list(_alive)


def stats() -> Stats:
    """The counters of the process: all wrappers and replays, those that are gone included."""
    armed = alive()
    while _just_retired:
        process_calls.add_retired(_just_retired.popleft())
    return stats_of(process_calls, armed)
