"""A solver in a process of its own, which is killed when its time is over: solvers read their clocks too seldom."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from memomalloc.child_group import die_with_parent
from memomalloc.data.columns import Int64Array

MAX_BYTES = 512 << 20
"""What a solver may take; one that needs more finds nothing more."""

_POLL_INTERVAL_S = 0.05
_SHORTEST_SLEEP_S = 1e-4
_LONGEST_LIMIT_S = 1e9


class Findings:
    """What a solver has found, in memory that its process shares with the one that waits for it.

    The solver may be killed at any time: what is read after its end is the last that was put as a whole.

    """

    def __init__(self, num_buffers: int) -> None:
        memory = mmap.mmap(-1, np.dtype(np.int64).itemsize * (3 + 2 * (1 + num_buffers)))
        words = np.frombuffer(memory, dtype=np.int64)
        self._state = words[:3]  # the half with the best plan, 0 for none; optimal; infeasible
        self._halves = words[3:].reshape(2, 1 + num_buffers)  # the height, the offsets

    def put(self, offsets: Int64Array, height: int) -> None:
        """A better plan than that before."""
        half = 2 if self._state[0] == 1 else 1
        self._halves[half - 1, 0] = height
        self._halves[half - 1, 1:] = offsets
        self._state[0] = half

    @property
    def best(self) -> tuple[Int64Array, int] | None:
        """The offsets that were put last, and their height."""
        half = int(self._state[0])
        return (self._halves[half - 1, 1:].copy(), int(self._halves[half - 1, 0])) if half else None

    @property
    def optimal(self) -> bool:
        """It is proven that nothing is lower than the best offsets."""
        return bool(self._state[1])

    @optimal.setter
    def optimal(self, proven: bool) -> None:
        self._state[1] = proven

    @property
    def infeasible(self) -> bool:
        """It is proven that there is no plan within the capacity."""
        return bool(self._state[2])

    @infeasible.setter
    def infeasible(self, proven: bool) -> None:
        self._state[2] = proven


def run_solver(search: Callable[[], None], end_s: float, go_on: Callable[[], bool]) -> bool:
    """Call ``search`` in a copy of this process, which never outlives this call by more than what is left of its time.

    Args:
        search: has effects on `Findings` only; may take `MAX_BYTES`.
        end_s: when it is killed at the latest, by ``time.perf_counter()``.
        go_on: asked about 20 times a second while it runs; False ends it.

    Returns:
        Whether Ctrl-C has ended it.

    Raises:
        RuntimeError: the search raised an exception; it is on stderr.
        BaseException: what ``go_on`` raises.
    """
    start_s = time.perf_counter()
    if start_s >= end_s:
        return False
    parent = os.getpid()
    # A Ctrl-C that comes meanwhile is heard once it is known whom to end.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process = 0
    try:
        try:
            process = _fork()
        except OSError:  # for want of memory: nothing is found
            return False
        if process == 0:
            _work(search, end_s, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        next_poll_s = start_s + _POLL_INTERVAL_S
        while not _has_ended(process):
            now_s = time.perf_counter()
            if now_s >= next_poll_s:
                if not go_on():
                    break
                next_poll_s = now_s + _POLL_INTERVAL_S
            # What is quick is noticed quickly, and so is the end.
            time.sleep(max(_SHORTEST_SLEEP_S, min(_POLL_INTERVAL_S, (now_s - start_s) / 10, end_s - now_s)))
    except KeyboardInterrupt:
        return True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        if process > 0:
            _end(process)
    return False


def _fork() -> int:
    with warnings.catch_warnings():
        # Of locks that other threads hold: the copy takes none, and if it did it would be ended in time.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _has_ended(process: int) -> bool:
    try:
        ended, status = os.waitpid(process, os.WNOHANG)
    except ChildProcessError:  # whoever waits for all children of this program was first
        return True
    if ended and os.waitstatus_to_exitcode(status) > 0:
        raise RuntimeError("the solver failed; what it raised is on stderr")
    return ended != 0


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(process, os.WNOHANG)[0] == 0:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _work(search: Callable[[], None], end_s: float, parent: int) -> NoReturn:
    """The life of the copy. It leaves without the exit handlers and finalizers of the program that it copies."""
    status = 1
    try:
        gc.disable()
        for number in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGTERM})
        left_s = min(max(end_s - time.perf_counter(), _SHORTEST_SLEEP_S), _LONGEST_LIMIT_S)
        signal.setitimer(signal.ITIMER_REAL, left_s)
        die_with_parent(parent)
        _limit_memory()
        search()
        status = 0
    except MemoryError:
        status = 0
    except BaseException:  # nothing of the copied program may go on in the copy
        traceback.print_exc()
    finally:
        os._exit(status)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * mmap.PAGESIZE
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [used + MAX_BYTES, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    # Solvers that run out of memory may abort.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
