"""What learning may cost a program that never asked for it."""

from __future__ import annotations

import time

#: What a lesson (a call that is recorded, and the planning of it) is expected to take beyond the call itself: so long,
#: and this share of the call. Measured; what lessons really take is counted afterwards.
_EXPECTED_S = 0.003
_EXPECTED_SHARE = 0.1


class Allowance:
    """The CPU time that learning took in this process, and whether there may be more of it.

    Not exact where several threads learn at once: then a little of what they spend may be lost.
    """

    def __init__(self) -> None:
        self._spent_s = 0.0

    @property
    def spent_s(self) -> float:
        """What all lessons took so far, in seconds of CPU time."""
        return self._spent_s

    def left_s(self, share: float) -> float:
        """What may still be spent now if learning may take this share of the process's CPU time so far."""
        return share * time.process_time() - self._spent_s

    def covers_lesson(self, share: float, call_s: float) -> bool:
        """Whether a lesson may begin that records a call which takes so long by itself."""
        return _EXPECTED_S + _EXPECTED_SHARE * call_s <= self.left_s(share)

    def spend(self, seconds: float) -> None:
        """A lesson took so long, beyond the call itself."""
        self._spent_s += max(seconds, 0.0)


#: Of the process.
allowance = Allowance()
