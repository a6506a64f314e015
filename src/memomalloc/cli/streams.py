"""What commands print on: standard output and error that take any text and any reader. No command of its own."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def make_patient() -> None:
    """Let this process print whatever it has to, and run to its end whoever reads it.

    A character that the terminal's encoding does not have is shown as an escape. A reader that goes away (``head``, a
    pager) changes nothing: what is printed after it is lost, and the exit status is what it would have been.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        printed = sys.stdout
        printed.flush()
        raw = _Patient(printed.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=printed.encoding,
            errors=printed.errors,
            line_buffering=printed.line_buffering,
            write_through=printed.write_through,
        )


@contextlib.contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """What anything prints meanwhile goes to standard error: Python, C, and processes that are started."""
    sys.stdout.flush()
    try:
        number, target = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
        kept = os.dup(number)
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(target, number)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        # Before the number is again what it was: what C has printed is still in its buffer.
        _flush_c()
        os.dup2(kept, number)
        os.close(kept)


def flush(stream: TextIO | None) -> None:
    """Write what is still in the buffer.

    Raises:
        OSError: it cannot be written, and is given up.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        # The interpreter would try again at its end, and change the exit status.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        raise


def _flush_c() -> None:
    import ctypes

    ctypes.CDLL(None).fflush(None)


class _Patient(io.FileIO):
    """Takes everything, also when nobody reads any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes
