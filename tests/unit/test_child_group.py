from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from child_process import run_python
from memomalloc.child_group import child_group
from memomalloc.cli.termination import Terminated

FOR_A_MINUTE = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[Any]]]:
    """The programs of a test, ended after it."""
    programs: list[subprocess.Popen[Any]] = []
    start = subprocess.Popen.__init__

    def remember(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        programs.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    yield programs
    for program in programs:
        program.kill()
        program.wait()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_as_the_program_starts_ends_it(number: signal.Signals) -> None:
    """In a process of one thread: where there are others, one of them may get the signal, and it is raised at once."""
    told = run_python(f"""
import os, signal, subprocess, sys
from memomalloc.child_group import child_group
from memomalloc.cli.termination import Terminated, raise_terminated

start = subprocess.Popen.__init__

def start_and_be_told(self, *args, **options):
    global program
    start(self, *args, **options)
    program = self
    os.kill(os.getpid(), {int(number)})

subprocess.Popen.__init__ = start_and_be_told
try:
    with raise_terminated(), child_group([sys.executable, "-c", "import time; time.sleep(600)"]):
        print("it goes on", end=" ")
except (Terminated, KeyboardInterrupt):
    print(program.poll())
""")
    assert told.stdout.split() == [str(-signal.SIGTERM)], told.stderr


def test_being_told_to_end_twice_needs_no_patience(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_told(*_: object) -> None:
        raise Terminated(signal.SIGHUP)

    def run_and_be_told() -> None:
        with child_group(STUBBORN, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            program.stdout.readline()
            monkeypatch.setattr("memomalloc.child_group._wait_patiently", be_told)
            raise Terminated(signal.SIGTERM)

    with pytest.raises(Terminated) as caught:
        run_and_be_told()
    assert caught.value.number == signal.SIGHUP
    assert started[0].wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("program", [FOR_A_MINUTE, ["/nowhere"]], ids=["starts", "does not start"])
def test_signals_are_as_they_were(program: list[str], started: list[subprocess.Popen[Any]]) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with child_group(program) as process:
            inside = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            process.kill()
    except FileNotFoundError:
        inside = before
    assert inside == signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_the_program_has_no_blocked_signals() -> None:
    ask = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with child_group([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=60)
    assert said.strip() == str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
