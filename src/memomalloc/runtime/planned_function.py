"""A function that learns a plan for each kind of call, and replays it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners import plan as make_plan
from memomalloc.runtime import extension
from memomalloc.runtime.armed_plan import ArmedPlan, process_calls, stats_of
from memomalloc.runtime.origins import call_of_the_program
from memomalloc.runtime.recorder import Recording
from memomalloc.runtime.signatures import Signature, only_on_cpu, signature
from memomalloc.runtime.statistics import CallCounts, Replayed, Stats
from memomalloc.runtime.switch import switch

log = logging.getLogger("memomalloc")

#: Recordings of one signature before it is planned though no two in a row agreed.
MAX_RECORDINGS = 6
#: So many runs in a row that deviate, and the call is recorded anew: the program has changed for good.
DEVIATIONS_BEFORE_RELEARNING = 8
#: So often at most; a program that never settles keeps its last plan, and the guard serves what it can.
MAX_RELEARNINGS = 3

_uses = itertools.count()


class _Entry:
    """What is known about one signature. Changed by the thread that holds ``lock``; ``armed`` is read by all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.armed: ArmedPlan | None = None
        self.warm_up_left = 0
        self.num_recordings = 0
        self.last_trace: Trace | None = None
        self.unplannable = ""  # the reason, if this signature can never be planned
        self.num_deviating_in_row = 0
        self.num_relearnings = 0
        self.last_use = 0


def _agree(a: Trace, b: Trace) -> bool:
    """Whether two recordings saw the same events in the same order."""
    return (
        np.array_equal(a.sizes, b.sizes)
        and np.array_equal(a.starts, b.starts)
        and np.array_equal(a.ends, b.ends)
        and np.array_equal(a.escapes, b.escapes)
    )


class PlannedFunction:
    """Calls a function; each signature is warmed up, recorded until two recordings agree, planned, and then replayed.

    Safe to call from several threads at once: while one thread learns a signature the others run it unplanned.

    Attributes:
        function: what is called.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        planner: str = "auto",
        time_limit_s: float = 1.0,
        warm_up_calls: int = 2,
        max_plans: int = 64,
    ) -> None:
        self.function = function
        self.planner = planner
        self.time_limit_s = time_limit_s
        self.warm_up_calls = warm_up_calls
        self.max_plans = max_plans
        self._entries: dict[Signature, _Entry] = {}
        self._entries_lock = threading.Lock()
        self._calls = CallCounts(process_calls)
        self._retired_lock = threading.Lock()
        self._retired = Replayed()

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, variant: Any = None) -> Any:
        """Call the function with ``args`` and ``kwargs``.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            variant: what the plan depends on besides the call, such as a module's training mode; hashable.
        """
        if torch.compiler.is_compiling():
            # The compiler sees the function; what it makes of it is called later, and can be optimized itself.
            return self.function(*args, **kwargs)
        if not switch.on:
            return self._run_unplanned("disabled", args, kwargs)
        key = (variant, *signature(args, kwargs))
        entry = self._entries.get(key)
        # Read once: another thread may retire the plan at any time.
        armed = entry.armed if entry is not None else None
        if entry is None or armed is None:
            return self._learn(key, args, kwargs)
        token = armed.begin()
        if token <= 0:
            return self._run_unplanned("no_arena" if token < 0 else "nested", args, kwargs)
        entry.last_use = next(_uses)
        try:
            return self.function(*args, **kwargs)
        finally:
            if armed.end(token):
                self._deviated(key, entry, armed)
            else:
                entry.num_deviating_in_row = 0

    def learn(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, variant: Any = None) -> None:
        """Call the function until this kind of call is replayed, or cannot be."""
        for _ in range(self.warm_up_calls + MAX_RECORDINGS + 1):
            self(args, kwargs, variant=variant)
            entry = self._entries.get((variant, *signature(args, kwargs)))
            if entry is None or entry.armed is not None or entry.unplannable:
                return

    def forget(self) -> None:
        """Drop all plans: the function has changed. Runs in progress and tensors that live are not touched."""
        with self._entries_lock:
            entries, self._entries = self._entries, {}
        for entry in entries.values():
            self._retire(entry)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed."""
        return tuple(armed.plan for entry in list(self._entries.values()) if (armed := entry.armed) is not None)

    # --- Calls that are not replayed -------------------------------------------------------------------------------

    def _run_unplanned(self, reason: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._calls.count_unplanned(reason)
        return self.function(*args, **kwargs)

    def _learn(self, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if extension.install().is_running():
            return self._run_unplanned("nested", args, kwargs)
        entry = self._entry_of(key, args, kwargs)
        if entry.unplannable:
            return self._run_unplanned(entry.unplannable, args, kwargs)
        # Not blocking: whoever comes while another thread learns, or while this thread does further up its stack, just
        # runs.
        if not entry.lock.acquire(blocking=False):
            return self._run_unplanned("learning", args, kwargs)
        try:
            if entry.warm_up_left > 0:
                entry.warm_up_left -= 1
                return self._run_unplanned("warm_up", args, kwargs)
            return self._record(entry, args, kwargs)
        finally:
            entry.lock.release()

    def _entry_of(self, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Entry:
        with self._entries_lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = _Entry()
                entry.warm_up_left = self.warm_up_calls
                if not only_on_cpu(args, kwargs):
                    entry.unplannable = "device"
                self._evict_least_recently_used()
                self._entries[key] = entry
            entry.last_use = next(_uses)
            return entry

    def _evict_least_recently_used(self) -> None:
        if len(self._entries) >= self.max_plans:
            oldest = min(self._entries, key=lambda known: self._entries[known].last_use)
            self._retire(self._entries.pop(oldest))

    def _record(self, entry: _Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        # What upstream retains now would hide how much it needs, and stay resident beside the arena.
        extension.install().release_upstream_memory()
        recording = Recording()
        with recording:
            result = call_of_the_program(self.function, args, kwargs)
        trace = recording.trace
        self._calls.count_recorded()
        entry.num_recordings += 1
        agreed = entry.last_trace is not None and _agree(entry.last_trace, trace)
        if agreed or entry.num_recordings >= MAX_RECORDINGS:
            self._arm(entry, trace, recording.upstream_peak_bytes, agreed)
        else:
            entry.last_trace = trace
        return result

    def _arm(self, entry: _Entry, trace: Trace, upstream_peak_bytes: int, agreed: bool) -> None:
        entry.last_trace = None
        try:
            plan = make_plan(trace, planner=self.planner, time_limit_s=self.time_limit_s)
            entry.armed = ArmedPlan(plan, upstream_peak_bytes=upstream_peak_bytes)
        except MemomallocError as error:
            entry.unplannable = "unplannable"
            log.warning("a call of %s cannot be planned and runs unplanned: %s", self.name, error)
            return
        extension.install().release_upstream_memory()
        log.info(
            "armed a plan for %s: %d buffers, %d bytes, lower bound %d bytes, by %s%s",
            self.name,
            plan.num_buffers,
            plan.arena_bytes,
            plan.lower_bound_bytes,
            plan.planner,
            "" if agreed else f" (after {MAX_RECORDINGS} recordings of which no two in a row agreed)",
        )

    def _deviated(self, key: Signature, entry: _Entry, armed: ArmedPlan) -> None:
        entry.num_deviating_in_row += 1
        if (
            entry.num_deviating_in_row < DEVIATIONS_BEFORE_RELEARNING
            or entry.num_relearnings >= MAX_RELEARNINGS
            or not entry.lock.acquire(blocking=False)
        ):
            return
        try:
            if entry.armed is armed:
                log.info(
                    "%s deviated from its plan %d times in a row: recording anew",
                    self.name,
                    entry.num_deviating_in_row,
                )
                entry.num_relearnings += 1
                entry.num_deviating_in_row = 0
                entry.num_recordings = 0
                self._retire(entry)
        finally:
            entry.lock.release()

    def _retire(self, entry: _Entry) -> None:
        armed, entry.armed = entry.armed, None
        if armed is not None:
            with self._retired_lock:
                self._retired = self._retired + armed.replayed().without_memory()

    # --- About this function----------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """How it was made, for a copy."""
        return {
            "planner": self.planner,
            "time_limit_s": self.time_limit_s,
            "warm_up_calls": self.warm_up_calls,
            "max_plans": self.max_plans,
        }

    @property
    def name(self) -> str:
        """The function's name, for people."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def stats(self) -> Stats:
        """The counters of this function since it was made."""
        armed = [armed for entry in list(self._entries.values()) if (armed := entry.armed) is not None]
        return stats_of(self._calls, armed, self._retired)
