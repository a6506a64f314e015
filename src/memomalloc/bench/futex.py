"""Futex calls: how often threads asked the kernel to wait for a lock, or to wake who waits."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memomalloc.errors import MissingDependencyError

_PR_SET_PTRACER = 0x59616D61
_ANY_PROCESS = ctypes.c_ulong(-1)
_ATTACH_TIMEOUT_S = 20.0


def require_strace() -> str:
    """Where strace is.

    Raises:
        MissingDependencyError: it is not installed; the message has the command that installs it.
    """
    found = shutil.which("strace")
    if found is None:
        raise MissingDependencyError("to count futex calls, strace must be installed. Run: apt-get install strace")
    return found


def count_futex_calls(work: Callable[[], None]) -> int | None:
    """How many futex calls all threads of this process make while ``work`` runs; those of Python are among them.

    It runs many times slower meanwhile. None where the system does not let a process be traced.

    Raises:
        MissingDependencyError: strace is not installed.
    """
    strace = require_strace()
    # Our child is to trace us, which some systems allow only if we say so.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        tracer = subprocess.Popen(
            [strace, "-f", "-c", "-e", "trace=futex", "-o", str(out), "-p", str(os.getpid())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not _attached(tracer):
                return None
            work()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        return parse_counts(out.read_text())


def parse_counts(text: str) -> int:
    """The number of calls in what ``strace -c`` wrote; a system call that was never made is not in it."""
    for line in text.splitlines():
        columns = line.split()
        if columns and columns[-1] == "futex":
            return int(columns[3])
    return 0


def _attached(tracer: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _ATTACH_TIMEOUT_S
    while time.monotonic() < deadline and tracer.poll() is None:
        if all("TracerPid:\t0" not in status.read_text() for status in Path("/proc/self/task").glob("*/status")):
            return True
        time.sleep(0.01)
    return False
