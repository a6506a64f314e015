"""Whose fault an exception is that comes out of our own work around a call."""

from __future__ import annotations

import functools
import signal
from typing import Any


def is_of_the_program(error: BaseException) -> bool:
    """Whether an exception that our work around a call has met is meant for the program, and must go on to it.

    Such is what a signal handler of the program raises, a timeout: it may come up in any line, and ours is one like any
    other. Everything else is either our fault, or that of an argument whose class has a ``__hash__``, ``__eq__`` or
    iterator of its own, which the program never asked for: none of these may cost a call its result.
    """
    if not isinstance(error, Exception):
        return True  # Ctrl-C, an exit
    frames = set()
    traceback = error.__traceback__
    while traceback is not None:
        frames.add(traceback.tb_frame.f_code)
        traceback = traceback.tb_next
    return any(_code_of(signal.getsignal(number)) in frames for number in signal.valid_signals())


def _code_of(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):  # an object that can be called
        handler = vars(type(handler)).get("__call__")
    return getattr(handler, "__code__", None)
