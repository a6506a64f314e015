"""Record: every tensor allocation of a block of code, as a trace."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np

from memomalloc.data.calls import Calls
from memomalloc.data.trace import Trace
from memomalloc.errors import OptionError, RecordingError
from memomalloc.runtime import extension
from memomalloc.runtime.learning.origins import (
    LIBRARY_FOLDERS,
    MODULE_CALL_CODE,
    Context,
    Place,
    call_of_the_program,
    origins_of,
    places_of,
)
from memomalloc.runtime.switch import switch


@dataclass(frozen=True)
class _Lane:
    """What one thread allocates.

    Attributes:
        name: of the thread; one that is gone gives it to the next of its kind.
        native: the recording of it.
    """

    name: str
    native: Any


class Recording:
    """What :func:`record` gives: a context manager that holds a trace once it is closed.

    Recordings nest, and each sees every event. A recording is ended by the thread that began it; ended elsewhere
    (a generator collected on another thread) it is closed all the same.
    """

    def __init__(self, *, name_models: bool = False, all_threads: bool = False, calls: bool = False) -> None:
        self._name_models = name_models
        self._all_threads = all_threads
        self._follows_calls = calls
        self._native: Any = None
        self._is_off = False  # memomalloc is disabled: nothing is recorded
        self._thread_name = ""
        self._clock: Any = None
        self._lanes: list[_Lane] = []
        self._lock = threading.Lock()  # guards the lanes
        self._hook_before: Any = None

    def __enter__(self) -> Recording:
        if self._native is not None or self._is_off:
            raise RecordingError("a Recording records once; call memomalloc.record() for another one")
        if not switch.on:
            self._is_off = True
            return self
        native = extension.install()
        if self._all_threads:
            self._clock = native.Clock()
            self._thread_name = threading.current_thread().name
        self._native = self._open()
        if self._all_threads:
            self._hook_before = threading.getprofile()
            threading.setprofile(self._begin_thread)
        return self

    def _open(self) -> Any:
        return extension.install().Recording.open(
            MODULE_CALL_CODE, call_of_the_program.__code__, LIBRARY_FOLDERS, self._follows_calls, self._clock
        )

    def _begin_thread(self, frame: Any, event: str, argument: Any) -> None:
        """Called as a thread begins, on it: the threading module lets profilers know."""
        sys.setprofile(self._hook_before)
        if self._hook_before is not None:
            self._hook_before(frame, event, argument)
        # "Thread-17 (serve)" is the 17th of its kind, and its own lane would be the 17th.
        kind = re.sub(r"^Thread-\d+", "Thread", threading.current_thread().name)
        with self._lock:
            if self._native.is_closed:
                return
            taken = {lane.name for lane in self._lanes if lane.native.has_thread} | {self._thread_name}
            names = (kind if n == 1 else f"{kind} #{n}" for n in itertools.count(1))
            name = next(name for name in names if name not in taken)
            self._lanes.append(_Lane(name, self._open()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_off:
            return
        if self._native is None:
            raise RecordingError("this recording was never begun; use `with memomalloc.record()`")
        # Not equal where somebody set another one meanwhile, who then has the say.
        if self._all_threads and threading.getprofile() == self._begin_thread:
            threading.setprofile(self._hook_before)
        with self._lock:
            self._native.close()
            for lane in self._lanes:
                lane.native.close()

    @property
    def trace(self) -> Trace:
        """All that was recorded; empty if memomalloc is disabled.

        Raises:
            RecordingError: the ``with`` block has not ended.
        """
        return self._recorded

    @property
    def upstream_peak_bytes(self) -> int:
        """By how much the process grew between the start and the fullest moment of the recording.

        Measured in resident pages while each large tensor has pages of its own, so an upstream allocator takes this
        much or more for the same call, with the model's own scratch. Memory that upstream had retained from before
        does not count: release it first.

        Raises:
            RecordingError: the ``with`` block has not ended.
        """
        if self._is_off:
            return 0
        self._require_closed()
        return int(self._native.resident_growth_bytes)

    def _require_closed(self) -> None:
        if self._native is None or not self._native.is_closed:
            raise RecordingError("a recording is complete when the `with memomalloc.record()` block has ended")

    @cached_property
    def _recorded(self) -> Trace:
        if self._is_off:
            return Trace.from_arrays([], [], [])
        self._require_closed()
        lanes = [_Lane(self._thread_name if self._lanes else "", self._native), *self._lanes]
        seen = [lane.native.buffers() for lane in lanes]
        contexts: list[Context] = []
        context_of: list[Any] = []
        for lane, events in zip(lanes, seen, strict=True):
            context_of.append(events["contexts"].astype(np.int64) + len(contexts))
            contexts += [Context(*context)._replace(thread=lane.name) for context in lane.native.contexts()]
        names = ("sizes", "starts", "ends", "freed_in_call")
        columns = {name: np.concatenate([events[name] for events in seen]) for name in names}
        # Of all threads in the order of their allocations: they share their ticks.
        order = np.argsort(columns["starts"], kind="stable")
        sizes, starts, ends, freed_in_call = (columns[name][order] for name in names)
        escapes = ends < 0
        places = places_of(contexts, name_models=self._name_models)
        per_buffer = (np.concatenate(context_of)[order], sizes, escapes, freed_in_call)
        origins = origins_of(places, *(column.tolist() for column in per_buffer))
        return Trace.from_arrays(
            sizes.astype(np.int64),
            starts,
            ends,
            escapes,
            end_tick=max(events["num_ticks"] for events in seen),
            origins=origins,
            elsewhere_requests=seen[0]["num_elsewhere"],
            elsewhere_bytes=seen[0]["bytes_elsewhere"],
            # What one thread made another one may read.
            calls=None if self._lanes else _calls_of(self._native.calls(), places),
        )


def _calls_of(seen: dict[str, Any] | None, places: Sequence[Place]) -> Calls | None:
    """The calls that a native recording saw, made from ``places``; None where it could not follow who read what.

    Kernels that compiled code calls are no operators: nobody sees what they read.
    """
    if seen is None or any(place.is_compiled for place in places):
        return None
    callers = [place.origin("call") for place in places]
    n = len(seen["begins"])
    return Calls.from_arrays(
        seen["begins"],
        seen["ends"],
        origins=[callers[context] for context in seen["contexts"].tolist()],
        frames=seen["frames"].astype(np.int64),
        tracked=seen["tracked"],
        read_counts=np.bincount(seen["reading_calls"], minlength=n),
        read_buffers=seen["read_buffers"],
        outside_counts=np.bincount(seen["outside_calls"], minlength=n),
        outside_bytes=seen["outside_bytes"],
    )


def record(*, threads: str = "this", calls: bool = False) -> Recording:
    """Record every tensor that is allocated on the CPU in a ``with`` block.

    That another thread frees a recorded tensor is always seen. Costs a lock and a table look-up at each
    allocation while it is open.

    Where several models run, the module paths of the trace begin with the names of the variables or attributes that
    hold them when the trace is first asked for.

    Example::

        with memomalloc.record() as recording:
            outputs = model(inputs)  # kept, so that the plan knows that outputs outlive the run
        plan = memomalloc.plan(recording.trace)

    Args:
        threads: "this": what the calling thread allocates. "all": also what each thread of `threading` does that begins
            in the block; the origins of the trace tell which thread it was. What others allocate is summed in the
            trace's ``elsewhere_bytes``.
        calls: also which tensors each operator reads, for :func:`memomalloc.advise`. An operator may wait for Python's
            lock as it begins and ends then (no allocation does). A recording inside another one has what that has.

    Raises:
        OptionError: there is no such choice of threads.
        RuntimeNotAvailableError: at the ``with``, where the runtime cannot run.
    """
    if threads not in ("this", "all"):
        raise OptionError(f'threads must be "this" or "all", not {threads!r:.40}')
    return Recording(name_models=True, all_threads=threads == "all", calls=calls)
