"""Run a program and watch it from outside: samples of what the system tells, and now and then an account."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memomalloc.child_group import child_group, end_group
from memomalloc.doctor import patient
from memomalloc.doctor.account import Account, account_of
from memomalloc.doctor.listener import LOOK, PATIENCE_S, socket_path
from memomalloc.doctor.observation import Look, Observation
from memomalloc.doctor.processes import PAGE_BYTES, Child, Sample, descendants, sample
from memomalloc.errors import MemomallocError

#: Samples begin this close together; of a long run only every second one is kept, again and again.
FIRST_PERIOD_S = 0.02
MAX_SAMPLES = 600
#: Children are looked for this often.
CHILDREN_PERIOD_S = 0.5
#: So many of them, the largest, are looked at in the end.
MAX_CHILDREN = 4
#: A look costs the program a fork, and a fault for each page that it writes while the fork lives; it may take this
#: share of the program's time. Looks are further and further apart, by the factor.
LOOK_SHARE = 0.02
LOOK_FACTOR = 1.4
MIN_LOOK_PERIOD_S = 0.3
#: On a busy machine an answer may take longer than that: so many are waited for at a time.
MAX_QUESTIONS = 3
_FAULT_S = 0.4e-6
#: So much of the last line that a process that died has printed goes into the message.
MAX_LOG_LENGTH = 400


class WatchError(MemomallocError, RuntimeError):
    """The program could not be watched."""


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        name: a Python file; of a module, its name.
        arguments: its own.
        is_module: as ``python -m``.
    """

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False


class Question:
    """A look that was asked for and is not answered yet."""

    def __init__(self, folder: str, pid: int, at_s: float = 0.0) -> None:
        """Ask.

        Args:
            folder: where the process listens.
            pid: its number.
            at_s: when that is, for whoever asks.

        Raises:
            OSError: nobody listens there.
        """
        self.at_s = at_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(socket_path(folder, pid))
            self._socket.sendall(LOOK)
        except OSError:
            self._socket.close()
            raise
        self._received = bytearray()

    def close(self) -> None:
        """Ask no longer."""
        self._socket.close()

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def read(self) -> dict[str, Any] | None:
        """Read what has come, which does not wait after ``select``; the answer once it is there, {} if none comes."""
        received = self._socket.recv(1 << 20)
        self._received += received
        if received:
            return None
        try:
            found: dict[str, Any] = json.loads(self._received)
            return found
        except ValueError:
            return {}

    def answer(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for the answer; {} if none comes."""
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if select.select([self], [], [], max(until_s - time.monotonic(), 0))[0]:
                try:
                    found = self.read()
                except OSError:
                    return {}
                if found is not None:
                    return found
        return {}


class Samples:
    """Samples of one process, fewer and fewer of a long run."""

    def __init__(self, pid: int, own_threads: int = 0) -> None:
        """Begin.

        Args:
            pid: the process.
            own_threads: so many of its threads are there for being watched.
        """
        self.pid = pid
        self._own_threads = own_threads
        self.began_s = time.monotonic()
        self.taken: list[Sample] = []
        self.children: tuple[Child, ...] = ()
        self.most_children: tuple[Child, ...] = ()  # when they had most memory
        self.period_s = FIRST_PERIOD_S
        self._next_children_s = 0.0

    def take(self) -> bool:
        """Take one now; False if the process is gone."""
        now_s = time.monotonic()
        if now_s >= self._next_children_s:
            self.children = descendants(self.pid)
            if _private_bytes(self.children) >= _private_bytes(self.most_children):
                self.most_children = self.children
            # Reading all of /proc takes time as well.
            self._next_children_s = now_s + max(CHILDREN_PERIOD_S, 20 * (time.monotonic() - now_s))
        taken = sample(self.pid, self.began_s, self.children, self._own_threads)
        if taken is None:
            return False
        self.taken.append(taken)
        if len(self.taken) >= MAX_SAMPLES:
            del self.taken[1::2]
            self.period_s *= 2
        return True


def _private_bytes(children: tuple[Child, ...]) -> int:
    return sum(child.private_bytes for child in children)


class _Pace:
    """When the next look is due."""

    def __init__(self) -> None:
        self._period_s = MIN_LOOK_PERIOD_S
        self._next_s = float("inf")
        self._fork_s = 0.0

    def is_due(self, at_s: float) -> bool:
        return at_s >= self._next_s

    def begin_anew(self) -> None:
        self._period_s = MIN_LOOK_PERIOD_S

    def asked(self, at_s: float, *, unbacked_bytes: int) -> None:
        cost_s = self._fork_s + unbacked_bytes / PAGE_BYTES * _FAULT_S
        self._period_s = max(self._period_s * LOOK_FACTOR, cost_s / LOOK_SHARE)
        self._next_s = at_s + self._period_s

    def learned(self, fork_s: float) -> None:
        self._fork_s = max(self._fork_s, fork_s)


class Watch:
    """One run of a program, watched."""

    def __init__(self, pid: int, folder: str, told: int, control: int) -> None:
        """Begin.

        Args:
            pid: of the process that runs ``patient.py``.
            folder: where it listens.
            told: the pipe in which it tells what happens.
            control: the pipe that lets it end.
        """
        self._folder = folder
        self._told = told
        self._control = control
        self._samples = Samples(pid, own_threads=1)
        self._pace = _Pace()
        self._questions: list[Question] = []
        self._looks: list[Look] = []
        self._child_accounts: dict[int, Account] = {}
        self._torch_at_s: float | None = None
        self._text = b""
        self._has_begun = False
        self.error = ""
        self.has_ended = False
        self.was_stopped = False

    def run(self, seconds: float | None) -> None:
        """Watch until the program ends, so many seconds have passed, or this process is interrupted."""
        try:
            while not self.has_ended and (self._samples.take() or not self._has_begun):
                if seconds is not None and self._has_begun and self._at_s >= seconds:
                    self.was_stopped = True
                    return
                self._wait()
                if self._has_begun and len(self._questions) < MAX_QUESTIONS and self._pace.is_due(self._at_s):
                    self._ask()
        except KeyboardInterrupt:
            self.was_stopped = True

    def look_for_the_last_time(self) -> None:
        """Look, and wait for all answers."""
        self._ask()
        for question in list(self._questions):
            self._answered(question, question.answer())
        self._looks.sort(key=lambda look: look.at_s)
        for child in sorted(self._samples.children, key=lambda child: -child.private_bytes)[:MAX_CHILDREN]:
            with contextlib.suppress(OSError):  # it was not forked from the program, and does not listen
                found = Question(self._folder, child.pid).answer()
                if found:
                    self._child_accounts[child.pid] = account_of(found)

    def let_go(self) -> None:
        """Let the program end."""
        with contextlib.suppress(OSError):
            os.write(self._control, b".")

    def observation(self) -> Observation | None:
        """What was seen; None where the process was gone too soon."""
        if len(self._samples.taken) < 2:
            return None
        return Observation(
            samples=tuple(self._samples.taken),
            looks=tuple(self._looks),
            torch_at_s=self._torch_at_s,
            children=self._samples.most_children,
            child_accounts=self._child_accounts,
            error=self.error,
            was_stopped=self.was_stopped,
        )

    @property
    def _at_s(self) -> float:
        return time.monotonic() - self._samples.began_s

    def _wait(self) -> None:
        waiting: list[int | Question] = [self._told, *self._questions]
        ready, _, _ = select.select(waiting, [], [], self._samples.period_s)
        if self._told in ready:
            self._hear()
        for question in [question for question in self._questions if question in ready]:
            try:
                found = question.read()
            except OSError:
                found = {}
            if found is not None:
                self._answered(question, found)

    def _hear(self) -> None:
        text = os.read(self._told, 1 << 16)
        if not text:  # it is gone
            time.sleep(self._samples.period_s)
            return
        *lines, self._text = (self._text + text).split(b"\n")
        for line in lines:
            event, _, said = line.decode(errors="replace").partition(" ")
            if event == patient.BEGAN:
                self._samples = Samples(self._samples.pid, own_threads=1)
                self._samples.take()
                self._has_begun = True
                self._ask()
            elif event == patient.TORCH:
                self._torch_at_s = self._at_s
                self._samples.take()
                self._pace.begin_anew()
                self._ask()
            elif event == patient.FAILED:
                self.error = said
            elif event == patient.ENDED:
                self._samples.take()
                self.has_ended = True

    def _ask(self) -> None:
        unbacked = self._samples.taken[-1].unbacked_bytes if self._samples.taken else 0
        self._pace.asked(self._at_s, unbacked_bytes=unbacked)
        with contextlib.suppress(OSError):
            self._questions.append(Question(self._folder, self._samples.pid, self._at_s))

    def _answered(self, question: Question, found: dict[str, Any]) -> None:
        self._questions.remove(question)
        question.close()
        if found:
            self._looks.append(Look(question.at_s, account_of(found)))
            self._pace.learned(found["fork_s"])


def watch_program(
    program: Program,
    *,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    seconds: float | None = None,
    keep_trace: Path | None = None,
) -> Observation:
    """Run a program and watch it until it ends, so many seconds have passed, or this process is interrupted.

    What the program prints to standard output is lost. A program that was not waited for is ended, and all that it has
    started.

    Args:
        program: what to run.
        options: remedies of ``patient.py`` that are tried.
        variables: added to its environment.
        seconds: it is stopped after so many; None: it runs to its end.
        keep_trace: where the trace goes, with ``patient.RECORD``.

    Raises:
        WatchError: the process died, or was gone before it could be looked at.
        KeyboardInterrupt: at a second interrupt, while the program is looked at for the last time.
    """
    with (
        tempfile.TemporaryDirectory(prefix="memomalloc-") as folder,
        tempfile.TemporaryFile() as errors,
        _pipe() as (told, tell),
        _pipe() as (wait, control),
    ):
        arguments = [sys.executable, patient.__file__, ",".join(options), folder, str(tell), str(wait)]
        arguments += ["m" if program.is_module else "p", program.name, *program.arguments]
        with child_group(
            arguments,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(tell, wait),
        ) as process:
            watch = Watch(process.pid, folder, told, control)
            watch.run(seconds)
            if watch.was_stopped or watch.has_ended:
                watch.look_for_the_last_time()
            watch.let_go()
            if watch.was_stopped:
                end_group(process)
            process.wait()
        trace = Path(folder) / patient.TRACE
        if keep_trace is not None and trace.exists():
            shutil.copyfile(trace, keep_trace)
        seen = watch.observation()
        if seen is None or not (watch.has_ended or watch.was_stopped or process.returncode == 0):
            raise WatchError(f"{_ending(process.returncode)}{_last_line(errors)}")
        return seen


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def _ending(status: int) -> str:
    """How a process ended, by its status as `subprocess` has it."""
    return f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"


def _last_line(errors: IO[bytes]) -> str:
    length = errors.seek(0, os.SEEK_END)
    errors.seek(max(length - 4096, 0))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1][-MAX_LOG_LENGTH:]}" if lines else ""
