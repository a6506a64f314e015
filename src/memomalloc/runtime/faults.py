"""Whose fault an exception is that comes out of our own work around a call."""

from __future__ import annotations

import functools
import signal
from types import CodeType
from typing import Any


def is_of_the_program(error: BaseException) -> bool:
    """Whether an exception that our work around a call has met is meant for the program, and must go on to it.

    Such is what a signal handler of the program raises, a timeout: it may come up in any line, and ours is one like any
    other. Everything else is either our fault, or that of an argument whose class has a ``__hash__``, ``__eq__`` or
    iterator of its own, which the program never asked for: none of these may cost a call its result.
    """
    if not isinstance(error, Exception):
        return True  # Ctrl-C, an exit
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    for function in (handler, getattr(type(handler), "__call__", None)):  # noqa: B004  # an object that can be called
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
