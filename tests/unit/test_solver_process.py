"""A solver in its process: what it found is kept, it ends in time and with whoever waits, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memomalloc.planners import solver_process
from memomalloc.planners.solver_process import Findings, run_solver


def put(findings: Findings, height: int) -> None:
    findings.put(np.full(3, height), height)


def run(search: Callable[[], None], *, time_limit_s: float = 20.0, go_on: Callable[[], bool] = lambda: True) -> bool:
    return run_solver(search, time.perf_counter() + time_limit_s, go_on)


@pytest.fixture(autouse=True)
def no_process_is_left() -> object:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_nothing_is_found_at_first() -> None:
    findings = Findings(3)
    assert (findings.best, findings.optimal, findings.infeasible) == (None, False, False)


def test_what_was_found_last_comes_from_the_process() -> None:
    findings = Findings(3)

    def search() -> None:
        for height in (9, 8, 7):
            put(findings, height)
        findings.optimal = findings.infeasible = True

    assert not run(search)
    best = findings.best
    assert best is not None
    assert (best[0].tolist(), best[1]) == ([7, 7, 7], 7)
    assert findings.optimal
    assert findings.infeasible


def test_a_solver_that_never_reads_its_clock_is_ended_in_time_and_what_it_found_is_kept() -> None:
    findings = Findings(3)

    def search() -> None:
        put(findings, 5)
        time.sleep(60)

    start_s = time.perf_counter()
    assert not run(search, time_limit_s=0.3)
    assert 0.3 <= time.perf_counter() - start_s < 5
    assert findings.best is not None


def test_no_time_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert not run(lambda: None, time_limit_s=0)


def test_no_process_is_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError("no memory")

    monkeypatch.setattr(os, "fork", fork)
    assert not run(lambda: None)


def test_it_is_ended_when_the_caller_says_so() -> None:
    start_s = time.perf_counter()
    assert not run(lambda: time.sleep(60), go_on=lambda: False)
    assert time.perf_counter() - start_s < 10


def test_what_the_caller_raises_ends_it() -> None:
    def go_on() -> bool:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        run(lambda: time.sleep(60), go_on=go_on)


def test_ctrl_c_ends_it_and_keeps_what_it_found() -> None:
    findings = Findings(3)

    def search() -> None:
        put(findings, 5)
        time.sleep(60)

    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    assert run(search)
    timer.join()
    assert findings.best is not None


def test_what_it_raises_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def search() -> None:
        raise ValueError("no such option")

    with pytest.raises(RuntimeError, match="stderr"):
        run(search)
    assert "no such option" in capfd.readouterr().err


def test_one_that_is_killed_or_aborts_has_found_what_it_found() -> None:
    findings = Findings(3)

    def search() -> None:
        put(findings, 5)
        os.kill(os.getpid(), signal.SIGKILL)

    assert not run(search)
    assert findings.best is not None


def test_memory_is_bounded() -> None:
    findings = Findings(3)

    def search() -> None:
        put(findings, 5)
        np.ones(5 * solver_process.MAX_BYTES // 4, dtype=np.uint8)
        put(findings, 4)

    assert not run(search)
    assert findings.best is not None
    assert findings.best[1] == 5


PARENT = """
import os, sys, threading, time
from memomalloc.planners.solver_process import run_solver

def search():
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

run_solver(search, time.perf_counter() + 60, lambda: True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_waits(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(10)
        end_s = time.monotonic() + 10
        while is_alive(process):
            assert time.monotonic() < end_s, "the solver's process was left behind"
            time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
