"""Change files at random and read them: whatever they say, it is a result or an error of one line, soon and in bounds.

``make fuzz`` runs it for a minute; ``MEMOMALLOC_FUZZ_S=36000 make fuzz`` for ten hours. Each input has a number: the
same number makes the same input again, which ``python tests/fuzz/fuzzer.py KIND NUMBER`` reads with all its frames.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Once, before processes are forked: each would take a second for them.
import jinja2  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import rich.progress  # noqa: F401
from kinds import KINDS, Kind, _saved

import memomalloc
from memomalloc.cli import UNEXPECTED, main
from memomalloc.errors import MemomallocError
from sample_traces import small_trace

MAX_MEMORY_BYTES = 200 * 2**20
"""Beside what the process takes that reads nothing: 256 MiB in all for a command that needs no torch."""
MAX_CPU_S = 10.0
#: After so many inputs a process is followed by another, so that nothing adds up.
BATCH = 2000
#: A process that says nothing for so long hangs where no signal reaches it.
SILENCE_S = 120.0


class TooSlowError(BaseException):
    """An input took more processor time than any may."""


@dataclasses.dataclass
class Tally:
    """What became of inputs of one kind."""

    inputs: int = 0
    accepted: int = 0
    commands: int = 0
    slowest_s: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what another process has seen."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.commands += other.commands
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.faults += other.faults


def read_one(kind: Kind, number: int, folder: Path, tally: Tally) -> None:
    """Make the input of a number, read it, and try commands on some.

    Raises:
        Exception: whatever is no refusal in the words of a `MemomallocError`.
    """
    choose = random.Random(number)
    content = kind.input(choose)
    path = folder / f"input{kind.suffix}"
    path.write_bytes(content)
    start_s = time.process_time()
    found, message = None, "accepted"
    try:
        found = kind.read(path)
    except MemomallocError as error:
        message = str(error)
    assert message, "an error without a word"
    assert "\x1b" not in message, "an escape in a message"
    assert len(message) < 2000, f"a message that nobody reads: {message:.300}"
    tally.slowest_s = max(tally.slowest_s, time.process_time() - start_s)
    tally.inputs += 1
    if found is not None:
        tally.accepted += 1
        kind.verify(content, found)
    if choose.random() < kind.command_share * (1 if found is None else 5):
        tally.commands += 1
        run_command(choose.choice(kind.commands), path, folder)


def run_command(command: str, path: Path, folder: Path) -> None:
    """Run a command on an input, and see that what it says is fit to be read, by people or by machines."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    words = {
        "FILE": str(path),
        "OUT": str(out / "out"),
        "OUT.csv": str(out / "out.csv"),
        "OUT.json": str(out / "out.json"),
    }
    arguments = [words.get(word, word) for word in shlex.split(command.format(trace=folder / "trace.jsonl"))]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    said, complained = stdout.getvalue(), stderr.getvalue()
    assert UNEXPECTED not in complained, complained
    assert "Traceback" not in complained, complained
    assert status in (0, 1, 2, 3), f"status {status}"
    assert not {character for character in said + complained if character < " " and character != "\n"}, repr(
        said + complained
    )
    (said + complained).encode()
    if status > 1:
        lines = complained.splitlines()
        assert all(line.startswith("memomalloc: ") for line in lines), complained
        # Of a file with several memories it is said before which one is taken.
        assert sum("this is --memory" not in line for line in lines) == 1, complained
    if command.split()[-1] == "--json" or (" --json " in command and "OUT" not in command):
        json.loads(said)
    shutil.rmtree(out)


def _limit() -> None:
    """Bound the memory that this process may take beside what it has, and the processor time of an input."""
    status = Path("/proc/self/status").read_text()
    limit = int(status.partition("VmData:")[2].split()[0]) * 1024 + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def too_slow(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, too_slow)


def _work(name: str, numbers: range, connection: Connection) -> None:
    """Read inputs, and say after each hundred what became of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "trace.jsonl").write_bytes(_saved(small_trace(), ".jsonl"))
        _limit()
        tally = Tally()
        for number in numbers:
            connection.send(number) if number % 20 == 0 else None
            signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
            try:
                read_one(kind, number, Path(folder), tally)
            except (Exception, TooSlowError) as error:
                limits = {MemoryError: f"more than {MAX_MEMORY_BYTES >> 20} MiB", TooSlowError: f"over {MAX_CPU_S:g} s"}
                text = limits.get(type(error)) or f"{type(error).__name__}: {error!s:.300}"
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
                tally.faults.append(f"{name} {number}: {text} ({where})")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(tally)
        connection.close()


def fuzz(names: list[str], *, seconds: float, jobs: int, first: int = 0, batch: int = BATCH) -> dict[str, Tally]:
    """Read inputs of some kinds in turns until the time is over.

    Args:
        names: of kinds.
        seconds: of the clock, after which no more inputs are begun.
        jobs: processes at a time.
        first: the number of the first input of each kind.
        batch: inputs of one process.
    """
    context = multiprocessing.get_context("fork")
    tallies = {name: Tally() for name in names}
    next_number = dict.fromkeys(names, first)
    turn, until = 0, time.monotonic() + seconds
    running: dict[Connection, tuple[Any, str, int, float]] = {}
    while running or turn < len(names) or time.monotonic() < until:
        while len(running) < jobs and (time.monotonic() < until or turn < len(names)):
            name = names[turn % len(names)]
            turn += 1
            numbers = range(next_number[name], next_number[name] + batch)
            next_number[name] = numbers.stop
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(name, numbers, sender))
            process.start()
            sender.close()
            running[receiver] = (process, name, numbers.start, time.monotonic())
        for connection in wait(list(running), timeout=1.0):
            process, name, last, _ = running[connection]  # type: ignore[index]
            try:
                message = connection.recv()  # type: ignore[union-attr]
            except EOFError:
                process.join()
                tallies[name].faults.append(
                    f"{name} {last} to {last + 20}: the process died, status {process.exitcode}"
                )
                del running[connection]  # type: ignore[arg-type]
                continue
            if isinstance(message, Tally):
                tallies[name].add(message)
                process.join()
                del running[connection]  # type: ignore[arg-type]
            else:
                running[connection] = (process, name, message, time.monotonic())  # type: ignore[index]
        for connection, (process, name, last, heard_s) in list(running.items()):
            if time.monotonic() - heard_s > SILENCE_S:
                process.kill()
                process.join()
                tallies[name].faults.append(f"{name} {last} to {last + 20}: hangs")
                del running[connection]
    return tallies


def _again(name: str, number: int) -> None:
    """Read one input again, and keep it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trace.jsonl").write_bytes(_saved(small_trace(), ".jsonl"))
        kept = Path("build") / f"fuzz-{name}-{number}{KINDS[name].suffix}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(KINDS[name].input(random.Random(number)))
        print(f"the input is {kept}")
        tally = Tally()
        read_one(KINDS[name], number, Path(folder), tally)
        print(f"nothing is wrong: {tally}")


def run() -> int:
    """Fuzz from the command line; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only this one")
    parser.add_argument("number", nargs="?", type=int, help="only this input")
    args = parser.parse_args()
    if args.number is not None:
        _again(args.kind, args.number)
        return 0
    seconds = float(os.environ.get("MEMOMALLOC_FUZZ_S", "60"))
    first = int(os.environ.get("MEMOMALLOC_FUZZ_FIRST", str(random.SystemRandom().randrange(2**40) * BATCH)))
    print(f"memomalloc {memomalloc.__version__}: {seconds:g} s, from input {first}", flush=True)
    jobs = int(os.environ.get("MEMOMALLOC_FUZZ_JOBS", "2"))
    tallies = fuzz([args.kind] if args.kind else list(KINDS), seconds=seconds, jobs=jobs, first=first)
    for name, tally in tallies.items():
        print(
            f"{name:8} {tally.inputs:9,} inputs, {tally.accepted:8,} accepted, {tally.commands:7,} commands, "
            f"slowest {tally.slowest_s:.2f} s, {len(tally.faults)} faults"
        )
    for tally in tallies.values():
        print(*tally.faults[:20], sep="\n", end="\n" if tally.faults else "")
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(run())
