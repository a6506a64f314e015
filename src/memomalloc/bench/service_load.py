"""Requests that come when they come, whether or not the service keeps up, and the workers that answer them.

The load is open: requests arrive at random moments of a given rate (a Poisson process) that are drawn beforehand. A
latency begins when its request was to arrive, not when a worker was free for it: a service that falls behind cannot
hide that by being asked less.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memomalloc.bench.process import Usage
from memomalloc.child_group import die_with_parent
from memomalloc.errors import MemomallocError

#: How workers may stand beside each other: as threads of one process, or as processes with one thread each.
WAYS = ("threads", "processes")

_PR_SET_TIMERSLACK = 29
#: Requests that nobody has begun to answer are left when so much more time than theirs is over: a service that is
#: waited for longer does not keep up.
LATE_SHARE = 0.25
#: From when workers are told of a schedule until it begins.
_NOTICE_S = 0.005


class WorkerDiedError(MemomallocError, RuntimeError):
    """A process that answered requests ended."""


@dataclass(frozen=True)
class Schedule:
    """Which requests come, and when.

    Attributes:
        arrivals_s: n moments after the beginning, in order.
        kinds: n numbers of kinds of requests.
        give_up_s: requests that nobody has begun to answer by then are left.
    """

    arrivals_s: NDArray[np.float64]
    kinds: NDArray[np.int64]
    give_up_s: float

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def open(cls, rate_per_s: float, seconds: float, weights: Sequence[float], seed: Sequence[int]) -> Schedule:
        """Requests that arrive independently of each other; what is late is waited for a quarter longer.

        Args:
            rate_per_s: requests a second, in the mean.
            seconds: how long they come; there is at least one.
            weights: the probability of each kind.
            seed: equal ones give equal schedules.
        """
        random = np.random.default_rng(seed)
        num_requests = max(round(rate_per_s * seconds), 1)
        # A Poisson process of which the number of arrivals is known: equal rates mean equal numbers.
        arrivals_s = np.sort(random.uniform(0, num_requests / rate_per_s, num_requests))
        give_up_s = (1 + LATE_SHARE) * num_requests / rate_per_s
        return cls(arrivals_s, random.choice(len(weights), num_requests, p=weights), give_up_s)

    @classmethod
    def at_once(cls, kinds: Sequence[int] | NDArray[np.int64], *, give_up_s: float = float("inf")) -> Schedule:
        """Requests that are all there at the beginning, in this order."""
        return cls(np.zeros(len(kinds)), np.asarray(kinds, dtype=np.int64), give_up_s)


@dataclass
class Served:
    """What became of a schedule.

    Attributes:
        latencies_ms: n, from the moment at which a request was to arrive; of one that was left, what it had waited.
        num_unanswered: of them.
        seconds: from the beginning until the last answer.
        usage: of all workers.
    """

    latencies_ms: NDArray[np.float64]
    num_unanswered: int
    seconds: float
    usage: Usage = field(default_factory=Usage)


class _Turns(Protocol):
    """Numbers requests, over all workers."""

    def reset(self) -> None: ...

    def take(self) -> int: ...


class _ThreadTurns:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._count = itertools.count()

    def take(self) -> int:
        return next(self._count)


class _ProcessTurns:
    def __init__(self) -> None:
        self._next = multiprocessing.get_context("fork").Value("q", 0)

    def reset(self) -> None:
        self._next.value = 0

    def take(self) -> int:
        with self._next.get_lock():
            number: int = self._next.value
            self._next.value = number + 1
        return number


@dataclass(frozen=True)
class _Job:
    schedule: Schedule
    begin_s: float


@dataclass(frozen=True)
class _Done:
    indices: list[int]
    latencies_ms: list[float]
    usage: Usage


class Crew:
    """Workers that answer the requests of a schedule, each the next one as soon as it is free.

    Args:
        way: of :data:`WAYS`.
        num_workers: how many.
        answer: answers a request of a kind, given its number.
        prepare: gives a context manager in which each worker lives (modes of torch belong to a thread).
        questions: what else can be asked of a worker, by name; see :meth:`ask`.
    """

    def __init__(
        self,
        way: str,
        num_workers: int,
        answer: Callable[[int], Any],
        *,
        prepare: Callable[[], AbstractContextManager[Any]],
        questions: Mapping[str, Callable[[], Any]],
    ) -> None:
        self.way = way
        self._turns: _Turns = _ThreadTurns() if way == "threads" else _ProcessTurns()
        self._answer, self._prepare, self._questions = answer, prepare, questions
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._workers: list[Any] = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            if way == "threads":
                worker: Any = threading.Thread(target=self._work, args=(theirs,), daemon=True)
            else:
                others = (*self._pipes, ours)
                worker = context.Process(target=self._work_alone, args=(theirs, others, os.getpid()), daemon=True)
            worker.start()
            if way == "processes":
                theirs.close()  # or its end would never be seen
            self._pipes.append(ours)
            self._workers.append(worker)
        for pipe in self._pipes:
            self._receive(pipe)

    def close(self) -> None:
        """Let the workers end."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join()

    @property
    def processes(self) -> list[int]:
        """The processes in which requests are answered."""
        return [os.getpid()] if self.way == "threads" else [worker.pid for worker in self._workers]

    def serve(self, schedule: Schedule) -> Served:
        """Answer the requests of a schedule.

        Raises:
            WorkerDiedError: a worker is no more.
            Exception: whatever answering raised.
        """
        self._turns.reset()
        before = Usage.now()
        job = _Job(schedule, time.monotonic() + _NOTICE_S)
        for pipe in self._pipes:
            pipe.send(job)
        done: list[_Done] = [self._receive(pipe) for pipe in self._pipes]
        ended_s = time.monotonic() - job.begin_s
        # What nobody has begun has waited since it came.
        latencies_ms = np.maximum(min(ended_s, schedule.give_up_s) - schedule.arrivals_s, 0) * 1e3
        num_answered = 0
        for part in done:
            latencies_ms[part.indices] = part.latencies_ms
            num_answered += len(part.indices)
        usage = Usage.now() - before
        if self.way == "processes":
            usage = sum((part.usage for part in done), Usage())
        return Served(latencies_ms, len(schedule) - num_answered, ended_s, usage)

    def ask(self, question: str) -> list[Any]:
        """One of the questions, asked of each process in which requests are answered."""
        pipes = self._pipes[:1] if self.way == "threads" else self._pipes
        for pipe in pipes:
            pipe.send(question)
        return [self._receive(pipe) for pipe in pipes]

    def _receive(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionError):
            raise WorkerDiedError("a process that answered requests ended") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _work_alone(self, pipe: Connection, others: Sequence[Connection], parent: int) -> None:
        die_with_parent(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for other in others:
            other.close()  # a sister holds no end of ours, so that each sees the end
        self._work(pipe)
        os._exit(0)  # not the exit handlers of the program that we are a copy of

    def _work(self, pipe: Connection) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)  # to wake when a request comes, not 50 microseconds later
        with pipe, self._prepare():
            pipe.send(None)
            while True:
                try:
                    job = pipe.recv()
                except (EOFError, ConnectionError):
                    return
                try:
                    result = self._questions[job]() if isinstance(job, str) else self._do(job)
                except Exception as error:  # raised again by whoever waits for the answer
                    result = error if type(error).__module__ == "builtins" else RuntimeError(_text(error))
                pipe.send(result)

    def _do(self, job: _Job) -> _Done:
        schedule, take, answer, now = job.schedule, self._turns.take, self._answer, time.monotonic
        arrivals, kinds = schedule.arrivals_s.tolist(), schedule.kinds.tolist()
        give_up_s = job.begin_s + schedule.give_up_s
        indices: list[int] = []
        latencies: list[float] = []
        before = Usage.now()
        while (index := take()) < len(kinds):
            due_s = job.begin_s + arrivals[index]
            left_s = due_s - now()
            if left_s > 0:
                time.sleep(left_s)
            elif now() >= give_up_s:
                break
            result = answer(kinds[index])
            latencies.append((now() - due_s) * 1e3)
            del result  # after the clock: a caller would use it first
            indices.append(index)
        return _Done(indices, latencies, Usage.now() - before)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
