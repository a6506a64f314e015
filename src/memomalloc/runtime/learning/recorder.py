"""Record: every tensor allocation of a block of code, as a trace."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np

from memomalloc.data.trace import Trace
from memomalloc.errors import RecordingError
from memomalloc.runtime import extension
from memomalloc.runtime.learning.origins import (
    LIBRARY_FOLDERS,
    MODULE_CALL_CODE,
    Context,
    call_of_the_program,
    origins_of,
)
from memomalloc.runtime.switch import switch


class Recording:
    """What :func:`record` gives: a context manager that holds a trace once it is closed.

    Recordings nest, and each sees every event. A recording is ended by the thread that began it; ended elsewhere
    (a generator collected on another thread) it is closed all the same.
    """

    def __init__(self, *, name_models: bool = False) -> None:
        self._name_models = name_models
        self._native: Any = None
        self._is_off = False  # memomalloc is disabled: nothing is recorded

    def __enter__(self) -> Recording:
        if self._native is not None or self._is_off:
            raise RecordingError("a Recording records once; call memomalloc.record() for another one")
        if not switch.on:
            self._is_off = True
            return self
        self._native = extension.install().Recording.open(
            MODULE_CALL_CODE, call_of_the_program.__code__, LIBRARY_FOLDERS
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_off:
            return
        if self._native is None:
            raise RecordingError("this recording was never begun; use `with memomalloc.record()`")
        self._native.close()

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
        seen = self._native.buffers()
        escapes = seen["ends"] < 0
        contexts = [Context(*context) for context in self._native.contexts()]
        columns = (seen["contexts"], seen["sizes"], escapes, seen["freed_in_call"])
        origins = origins_of(contexts, *(column.tolist() for column in columns), name_models=self._name_models)
        return Trace.from_arrays(
            seen["sizes"].astype(np.int64),
            seen["starts"],
            seen["ends"],
            escapes,
            end_tick=seen["num_ticks"],
            origins=origins,
            elsewhere_requests=seen["num_elsewhere"],
            elsewhere_bytes=seen["bytes_elsewhere"],
        )


def record() -> Recording:
    """Record every tensor that this thread allocates on the CPU in a ``with`` block.

    Other threads are not recorded; that they free a recorded tensor is. Costs a lock and a table look-up at each
    allocation while it is open.

    Where several models run, the module paths of the trace begin with the names of the variables or attributes that hold
    them when the trace is first asked for.

    Example::

        with memomalloc.record() as recording:
            outputs = model(inputs)  # kept, so that the plan knows that outputs outlive the run
        plan = memomalloc.plan(recording.trace)

    Raises:
        RuntimeNotAvailableError: at the ``with``, where the runtime cannot run.
    """
    return Recording(name_models=True)
