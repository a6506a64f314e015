"""Being told to end: as by Ctrl-C, everything that was begun is cleared up first. No command of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

#: What `kill`, a service manager or a closed terminal sends.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """This process was told to end by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")

    @property
    def status(self) -> int:
        """What a shell shows of a process that a signal ended."""
        return 128 + self.number

    def die(self) -> NoReturn:
        """End as a process does that takes no notice of the signal, so that whoever sent it sees that."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)
        raise SystemExit(self.status)  # where it is blocked


@contextlib.contextmanager
def raise_terminated() -> Iterator[None]:
    """Raise `Terminated` in the main thread at a signal that would end this process: children and files are then
    cleared up by whoever made them. A signal that is ignored (``nohup``) or handled already stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise Terminated(number)

    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
