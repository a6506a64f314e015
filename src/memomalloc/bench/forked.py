"""Run a function in a copy of this process, so that what it does to the heap stays there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from memomalloc.child_group import die_with_parent
from memomalloc.errors import MemomallocError

_Result = TypeVar("_Result")

#: The child sends what it has to say; it is passed on to the parent's ``on_message``.
Send = Callable[[Any], None]


class ProcessDiedError(MemomallocError, RuntimeError):
    """A process ended without a result.

    Attributes:
        signal_number: what killed it; 0 if it ended by itself.
    """

    def __init__(self, message: str, signal_number: int = 0) -> None:
        self.signal_number = signal_number
        super().__init__(message)


def run_forked(
    function: Callable[[Send], _Result],
    *,
    on_message: Callable[[Any], None] = lambda message: None,
    time_limit_s: float | None = None,
) -> _Result:
    """Run ``function`` in a forked child and wait for it.

    The child sees all that this process has built. It ignores Ctrl-C; it ends when its parent does. Must be called
    before this process has started threads that compute (torch's intra-op threads do not survive a fork).

    Args:
        function: called in the child; its result must be picklable.
        on_message: called here with each object that the child sends.
        time_limit_s: the child is killed after so long; None: never.

    Raises:
        TimeoutError: the time was up.
        ProcessDiedError: the child died.
        Exception: what the function raised; if it cannot be pickled, a ``RuntimeError`` with its text.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(function, sender, os.getpid()))
    child.start()
    sender.close()
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    try:
        while True:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not receiver.poll(left_s):
                raise TimeoutError(f"not done after {time_limit_s:g} s")
            kind, value = receiver.recv()
            if kind == "message":
                on_message(value)
            elif kind == "error":
                raise value
            else:
                return value  # type: ignore[no-any-return]
    except EOFError:
        child.join()
        raise _died(child.exitcode or 0) from None
    finally:
        child.kill()
        child.join()
        receiver.close()


def _died(exit_code: int) -> ProcessDiedError:
    if exit_code >= 0:
        return ProcessDiedError(f"the process ended with status {exit_code}")
    name = signal.Signals(-exit_code).name
    hint = "; the kernel does this when memory runs out" if -exit_code == signal.SIGKILL else ""
    return ProcessDiedError(f"the process was killed by {name}{hint}", -exit_code)


def _work(function: Callable[[Send], Any], sender: Connection, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer = ("result", function(lambda message: sender.send(("message", message))))
    except Exception as error:  # raised again in the parent
        answer = ("error", error)
    try:
        sender.send(answer)
    except Exception:  # an exception or result that cannot be pickled
        with contextlib.suppress(OSError):
            sender.send(("error", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
    sender.close()
    # Not the exit handlers of the program that we are a copy of.
    os._exit(0)
