"""What learning may cost a program that never asked for it: CPU time and page faults, in a share of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Learning takes at most this share of the page faults of the process so far. The share of CPU time is a setting.
FAULT_SHARE = 0.05
#: What a lesson (a call that is recorded, and the planning of it) is expected to cost beyond the call itself, before
#: one was measured: so long, and as long as the call again, since a recorded call has its large tensors in fresh pages.
_EXPECTED_S = 0.005
_EXPECTED_SHARE = 1.0
_EXPECTED_FAULTS_A_SECOND = 400_000.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took.

    Attributes:
        cpu_s: CPU time of the thread, in seconds.
        num_faults: page faults of the thread.
    """

    cpu_s: float = 0.0
    num_faults: int = 0

    @classmethod
    def of_thread(cls) -> Cost:
        """Of this thread so far."""
        return cls(time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_minflt)

    @classmethod
    def of_process(cls) -> Cost:
        """Of this process so far."""
        return cls(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, self.num_faults + other.num_faults)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(max(self.cpu_s - other.cpu_s, 0.0), max(self.num_faults - other.num_faults, 0))


class Allowance:
    """What learning took in this process, and whether there may be more of it.

    Not exact where several threads learn at once: then a little of what they spend may be lost.
    """

    def __init__(self) -> None:
        self.spent = Cost()
        self._share_of_call = _EXPECTED_SHARE
        self._faults_a_second = _EXPECTED_FAULTS_A_SECOND

    def left_s(self, share: float) -> float:
        """CPU time that may be spent now if learning may take this share of what the process took so far."""
        return share * Cost.of_process().cpu_s - self.spent.cpu_s

    def covers_lesson(self, share: float, call: Cost) -> bool:
        """Whether a lesson may begin that records a call which costs so much by itself."""
        process = Cost.of_process()
        expected_s = _EXPECTED_S + self._share_of_call * call.cpu_s
        expected_faults = self._faults_a_second * call.cpu_s
        return (
            self.spent.cpu_s + expected_s <= share * process.cpu_s
            and self.spent.num_faults + expected_faults <= FAULT_SHARE * process.num_faults
        )

    @contextmanager
    def lesson(self, call: Cost) -> Iterator[None]:
        """A lesson, which records a call that costs so much by itself."""
        before = Cost.of_thread()
        try:
            yield
        finally:
            cost = Cost.of_thread() - before - call
            self.spent += cost
            if call.cpu_s > 0:
                # The next will be alike. From less than 5 ms nothing is to be learned about large calls.
                weight = min(call.cpu_s / _EXPECTED_S, 1.0)
                self._share_of_call += weight * (cost.cpu_s / call.cpu_s - self._share_of_call)
                self._faults_a_second += weight * (cost.num_faults / call.cpu_s - self._faults_a_second)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Other work of learning."""
        before = Cost.of_thread()
        try:
            yield
        finally:
            self.spent += Cost.of_thread() - before


#: Of the process.
allowance = Allowance()
