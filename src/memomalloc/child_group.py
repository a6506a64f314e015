"""Programs that are started and watched: they end, with all that they started, when whoever watches them does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 2.0
#: What this process is told to end by.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_libc = ctypes.CDLL(None)


def die_with_parent(parent: int) -> None:
    """Let this process, which was just forked, be killed when its parent ends, or end now if it did already.

    Args:
        parent: its number.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        os._exit(1)


@contextlib.contextmanager
def child_group(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program in a process group of its own, and wait for it when the block ends well.

    When the block ends by an exception (Ctrl-C and a signal that is raised as one among them) the whole group is ended:
    asked to first, and killed soon after. The program itself also ends when this process is killed.

    Args:
        arguments: of the command line.
        options: of `subprocess.Popen`.
    """
    parent = os.getpid()
    # What a handler of signals raises as the program starts would leave it alone: nothing is raised before it is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

    def prepare() -> None:
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    process = None
    try:
        process = subprocess.Popen(arguments, start_new_session=True, preexec_fn=prepare, **options)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield process
        with process:  # closes its pipes, and waits for it
            pass
    except BaseException:
        if process is not None:
            end_group(process)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a program of :func:`child_group`, and all that it has started: asked to first, and killed soon after."""
    try:
        _signal_group(process, signal.SIGTERM)
        _wait_patiently(process)
    finally:  # who is told to end once more has no patience
        _signal_group(process, signal.SIGKILL)
    _wait_patiently(process)
    # What the program started may outlive it, and hold the pipes that are read to their ends.
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait_patiently(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_S)
