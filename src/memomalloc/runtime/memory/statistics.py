"""What happened: counted runs, requests and bytes, as plain frozen data."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memomalloc.runtime.fork_safety import LockHolder

#: Why a request of a replayed run was not served from its plan.
UPSTREAM_REASONS = ("size", "extra", "occupied", "blocked")


def add_counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """The sums of two sets of counters, key by key."""
    return {key: a.get(key, 0) + b.get(key, 0) for key in (*a, *(key for key in b if key not in a))}


@dataclass(frozen=True)
class Replayed:
    """What the runs of plans did, added up."""

    runs: int = 0
    requests_planned: int = 0
    requests_served: int = 0
    requests_missing: int = 0
    requests_upstream: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(UPSTREAM_REASONS, 0))
    bytes_upstream: int = 0
    kept_regions: int = 0

    @classmethod
    def of_plan(cls, native: Mapping[str, Any], num_slots: int) -> Replayed:
        """Read the counters of a native plan with ``num_slots`` slots."""
        return cls(
            runs=native["num_runs"],
            requests_planned=native["num_runs"] * num_slots,
            requests_served=native["served"],
            requests_missing=native["missing"],
            requests_upstream=native["upstream"],
            bytes_upstream=native["upstream_bytes"],
            kept_regions=native["num_kept_regions"],
        )

    def __add__(self, other: Replayed) -> Replayed:
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in (entry.name for entry in dataclasses.fields(self))
            if name != "requests_upstream"
        }
        return Replayed(**sums, requests_upstream=add_counts(self.requests_upstream, other.requests_upstream))


class CallCounts(LockHolder):
    """Calls that were not replayed, counted by any thread; also counted by the process, where that is given."""

    def __init__(self, process: CallCounts | None = None) -> None:
        super().__init__()
        self._process = process
        self._recorded = 0
        self._unplanned: Counter[str] = Counter()
        self._retired = Replayed()
        self._native: list[Callable[[], Mapping[str, int] | None]] = []

    def count_natively(self, native: Callable[[], Mapping[str, int] | None]) -> None:
        """Native code counts unplanned calls, too, and gives them by reason; None once it is gone."""
        with self.lock:
            self._native = [known for known in self._native if known() is not None and known != native] + [native]

    def count_recorded(self) -> None:
        """One call was recorded."""
        with self.lock:
            self._recorded += 1
        if self._process is not None:
            self._process.count_recorded()

    def count_unplanned(self, reason: str, num_calls: int = 1, *, in_process: bool = True) -> None:
        """Calls ran as if unwrapped; the process knows of them already, or it does not."""
        with self.lock:
            self._unplanned[reason] += num_calls
        if self._process is not None and in_process:
            self._process.count_unplanned(reason, num_calls)

    def add_retired(self, replayed: Replayed) -> None:
        """A plan is gone that replayed so much. (The process hears of it from the plan.)"""
        with self.lock:
            self._retired = self._retired + replayed

    def read(self) -> tuple[int, dict[str, int], Replayed]:
        """Recorded calls, unplanned calls by reason, and what plans that are gone replayed."""
        with self.lock:
            unplanned = self._unplanned.copy()
            for native in self._native:
                unplanned.update(native() or {})
            return self._recorded, dict(unplanned), self._retired


@dataclass(frozen=True)
class Stats:
    """The counters of one wrapper, or of the process.

    Attributes:
        runs_recorded: calls that were recorded.
        runs_replayed: calls that were served from a plan.
        runs_unplanned: calls that ran as if unwrapped, by reason: ``warm_up`` (before the first recording),
            ``learning`` (another thread was recording the same signature), ``device`` (a tensor that is not on the
            CPU), ``no_arena`` (no memory, or too many runs at once), ``unplannable`` (planning failed, or the
            arguments cannot be described), ``probe`` (to see what the plan is worth), ``retired`` (calls were slower
            with their plan), ``postponed`` (learning would have cost a program that did not ask for it too much),
            ``nested`` (the plan of an outer call served it), ``disabled``.
        num_plans: plans armed now.
        requests_planned: requests that the plans of the replayed runs foresaw.
        requests_served: requests that were served from a plan.
        requests_missing: planned requests that did not come.
        requests_upstream: requests of replayed runs that no plan served, by reason: ``size`` (no slot near took
            it), ``extra`` (after the last slot), ``occupied`` (a live tensor lay there), ``blocked`` (a tensor of an
            earlier run, or a refused slot, may lie there). They went upstream, or to spare memory of the process where
            they are large (128 KiB) and the model has no budget of its own.
        bytes_upstream: the sizes of these requests, summed.
        arena_bytes: of one arena of each plan, summed over the plans.
        lower_bound_bytes: the least that these arenas could have.
        upstream_peak_bytes: by how much the process grew at the fullest moment of the same calls as they were recorded,
            with all that lay idle given back before; an upstream allocator takes about this much or more.
        kept_regions: times that a tensor which the program kept from a call, and which is no output, kept its region
            from another plan, which had to use another region.
        mapped_bytes: of the regions that are laid with one of these plans now, and of the outputs beside them; resident
            at most. A region belongs to the process, and the next call may lay another plan over it: what all plans
            together use is told by :func:`memomalloc.memory_stats`.
        num_regions: those regions.
        num_regions_in_use: those of them on which a call is running now.
        num_bad_frees: frees of addresses in an arena at which nothing lived (process-wide; always 0 in a correct
            program).
    """

    runs_recorded: int
    runs_replayed: int
    runs_unplanned: Mapping[str, int]
    num_plans: int
    requests_planned: int
    requests_served: int
    requests_missing: int
    requests_upstream: Mapping[str, int]
    bytes_upstream: int
    arena_bytes: int
    lower_bound_bytes: int
    upstream_peak_bytes: int
    kept_regions: int
    mapped_bytes: int
    num_regions: int
    num_regions_in_use: int
    num_bad_frees: int

    @property
    def served_share(self) -> float | None:
        """Requests served from a plan, of all requests of replayed runs; 0 to 1. None: nothing was replayed."""
        if self.runs_replayed == 0:
            return None
        requests = self.requests_served + sum(self.requests_upstream.values())
        return self.requests_served / requests if requests else 1.0

    @property
    def num_arenas(self) -> int:
        """Deprecated: ``num_regions``."""
        return self._renamed("num_arenas", "num_regions")

    @property
    def num_arenas_in_use(self) -> int:
        """Deprecated: ``num_regions_in_use``."""
        return self._renamed("num_arenas_in_use", "num_regions_in_use")

    def _renamed(self, old: str, new: str) -> int:
        warnings.warn(f"Stats.{old} is Stats.{new} now", DeprecationWarning, stacklevel=3)
        value: int = getattr(self, new)
        return value

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain numbers and dictionaries, for JSON."""
        return dataclasses.asdict(self)
