"""Work in a thread of its own, so that Ctrl-C and a caller's progress function are heard while a solver runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

_POLL_INTERVAL_S = 0.05


class Background(Generic[_T]):
    """A call that runs in a thread and may be left to itself: the thread does not keep the process alive.

    Attributes:
        interrupted: Ctrl-C has ended the waiting.
    """

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._results: list[_T] = []
        self._errors: list[BaseException] = []
        # Not Thread.join: interrupted, it takes a thread that runs for one that has ended (CPython 3.11).
        self._ended = threading.Event()
        self.interrupted = False
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, go_on: Callable[[], bool]) -> None:
        """Until the call returns, ``go_on()``, asked about 20 times a second, is False, or Ctrl-C.

        Raises:
            BaseException: what ``go_on`` raises.
        """
        try:
            while not self._ended.wait(_POLL_INTERVAL_S):
                if not go_on():
                    return
        except KeyboardInterrupt:
            self.interrupted = True

    def result(self, *, within_s: float) -> _T | None:
        """What the call returned, None if it has not within that time.

        Raises:
            BaseException: what the call raised.
        """
        self._ended.wait(within_s)
        if self._errors:
            raise self._errors[0]
        return self._results[0] if self._results else None

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # for the thread that waits
            self._errors.append(error)
        finally:
            self._ended.set()
