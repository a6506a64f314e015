"""What learning may cost a program that never asked for it: CPU time and page faults, in a share of its own."""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memomalloc.runtime import extension

#: Learning takes at most this share of the page faults of the process so far. The share of CPU time is a setting.
FAULT_SHARE = 0.05
#: What a lesson (a call that is recorded, and the planning of it) is expected to take: so much longer than the call
#: itself, and, before one was measured, so much for each request of memory; and so many page faults in each second.
_EXPECTED_S = 0.005
_EXPECTED_S_A_REQUEST = 50e-6
_EXPECTED_FAULTS_A_SECOND = 50_000.0
#: From fewer requests little is to be learned about what one costs.
_TELLING_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took.

    Attributes:
        cpu_s: CPU time of the thread, in seconds.
        num_faults: page faults of the thread.
        num_requests: requests of memory, as far as no plan and no spare memory served them.
    """

    cpu_s: float = 0.0
    num_faults: int = 0
    num_requests: int = 0

    @classmethod
    def of_thread(cls) -> Cost:
        """Of this thread so far."""
        num_faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        return cls(time.thread_time(), num_faults, extension.load().num_requests_upstream())

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu_s + other.cpu_s, self.num_faults + other.num_faults, self.num_requests + other.num_requests
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            max(self.cpu_s - other.cpu_s, 0.0),
            max(self.num_faults - other.num_faults, 0),
            max(self.num_requests - other.num_requests, 0),
        )


class Measurement:
    """What this thread takes in the block of a ``with``, but for full garbage collections.

    They take long in a large program, come whether anything is learned or not, and may come in a call or a lesson.

    Attributes:
        cost: of the block, once it has ended.
    """

    def __init__(self) -> None:
        self.cost = Cost()
        self._before = Cost()
        self._thread = threading.get_ident()
        self._collection_began_s = 0.0
        self._collections_s = 0.0

    def __enter__(self) -> Measurement:
        self._before = Cost.of_thread()
        gc.callbacks.append(self._collecting)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collecting)
        self.cost = Cost.of_thread() - self._before - Cost(self._collections_s)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2 or threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collection_began_s = time.thread_time()
        else:
            self._collections_s += time.thread_time() - self._collection_began_s


class Allowance:
    """What learning took in this process, and whether there may be more of it.

    Not exact where several threads learn at once: then a little of what they spend may be lost.
    """

    def __init__(self) -> None:
        self.spent = Cost()
        self._s_a_request = _EXPECTED_S_A_REQUEST
        self._faults_a_second = _EXPECTED_FAULTS_A_SECOND

    def left_s(self, share: float) -> float:
        """CPU time that may be spent now if learning may take this share of what the process took so far."""
        return share * time.process_time() - self.spent.cpu_s

    def covers_lesson(self, share: float, call: Cost) -> bool:
        """Whether a lesson may begin that records a call which costs so much by itself."""
        expected_s = _EXPECTED_S + self._s_a_request * call.num_requests
        expected_faults = max(self._faults_a_second * call.cpu_s - call.num_faults, 0.0)
        faults_so_far = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        return (
            expected_s <= self.left_s(share) and self.spent.num_faults + expected_faults <= FAULT_SHARE * faults_so_far
        )

    @contextmanager
    def lesson(self, call: Cost) -> Iterator[None]:
        """A lesson, which records a call that costs so much by itself."""
        measurement = Measurement()
        try:
            with measurement:
                yield
        finally:
            took = measurement.cost
            beyond = took - call
            self.spent += beyond
            # The next will be alike.
            if call.num_requests > 0:
                weight = min(call.num_requests / _TELLING_REQUESTS, 1.0)
                self._s_a_request += weight * (beyond.cpu_s / call.num_requests - self._s_a_request)
            if call.cpu_s > 0:
                weight = min(call.cpu_s / _EXPECTED_S, 1.0)
                self._faults_a_second += weight * (took.num_faults / call.cpu_s - self._faults_a_second)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Other work of learning."""
        measurement = Measurement()
        try:
            with measurement:
                yield
        finally:
            self.spent += measurement.cost


#: Of the process.
allowance = Allowance()
