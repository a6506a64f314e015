"""Programs that are started and watched: they end, with all that they started, when whoever watches them does."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 2.0
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
    tie = functools.partial(die_with_parent, os.getpid())
    with subprocess.Popen(arguments, start_new_session=True, preexec_fn=tie, **options) as process:
        try:
            yield process
        except BaseException:
            end_group(process)
            raise


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a program of :func:`child_group`, and all that it has started: asked to first, and killed soon after."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
    # What the program started may outlive it, and hold the pipes that are read to their ends.
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
