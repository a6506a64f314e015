"""A measuring session: cases in, results out, one process for each upstream; interruptible and resumable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from memomalloc.bench.case import Case
from memomalloc.bench.results import Results
from memomalloc.bench.row import Row
from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.bench.upstream_process import Request
from memomalloc.child_group import child_group
from memomalloc.errors import MemomallocError

#: So much of what a process that died has printed last goes into its row.
MAX_LOG_LENGTH = 1000


class SessionError(MemomallocError, RuntimeError):
    """Nothing can be measured with this suite or upstream; the message says why."""


def require_same_conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """See that what is measured now may stand beside what was measured before.

    Args:
        old: ``conditions()`` of the results that there are.
        new: those of the new ones.

    Raises:
        SessionError: it may not; the message says what differs.
    """
    for name, value in old.items():
        if value != new[name]:
            raise SessionError(
                f"the results cannot stand beside new ones: their {name} was {value}, and is {new[name]} now; "
                "name another file"
            )


@dataclass
class Progress:
    """How far a session has come.

    Attributes:
        num_cases: in all, those that were measured before included.
        num_done: of them.
        case: the one at hand.
        stage: what is being done with it.
        share: how much of the case is done, 0 to 1.
        left_s: how long the rest will take if it goes on like this; None before the first row.
    """

    num_cases: int
    num_done: int
    case: Case
    stage: str
    share: float
    left_s: float | None


def run_session(
    request: Request,
    results: Results,
    *,
    path: str | Path | None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> None:
    """Measure all cases that ``results`` has no row of.

    Args:
        request: what to measure; its cases may be of several upstreams.
        results: gets the rows; rows of a session that was interrupted are kept.
        path: where the results are written after each row, at once and whole; None: nowhere.
        on_progress: told what is being done.
        on_row: told each new row.

    Raises:
        SessionError: a suite or an upstream cannot be measured here.
        OSError: the file cannot be written.
    """
    done = {row.case for row in results.rows}
    left = [case for case in request.cases if case not in done]
    clock = _Clock(num_cases=len(request.cases), num_done=len(request.cases) - len(left))

    def take(row: Row) -> None:
        results.rows.append(row)
        if path is not None:
            results.save(path)
        clock.num_done += 1
        clock.num_new += 1
        on_row(row)

    def tell(case: Case, stage: str, share: float) -> None:
        on_progress(clock.progress(case, stage, share))

    for upstream, cases in groupby(left, key=lambda case: case.upstream):
        results.environment[upstream] = UPSTREAMS[upstream].environment()
        _measure_upstream(replace(request, cases=tuple(cases)), results.environment[upstream], take, tell)


@dataclass
class _Clock:
    num_cases: int
    num_done: int
    num_new: int = 0
    began_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = time.monotonic()

    def progress(self, case: Case, stage: str, share: float) -> Progress:
        spent = time.monotonic() - self.began_s
        left_s = None
        if self.num_new:
            left_s = spent / (self.num_new + share) * (self.num_cases - self.num_done - share)
        return Progress(self.num_cases, self.num_done, case, stage, share, left_s)


def _measure_upstream(
    request: Request,
    environment: dict[str, str],
    take: Callable[[Row], None],
    tell: Callable[[Case, str, float], None],
) -> None:
    """Measure cases of one upstream. A process that dies costs the case at hand; another one does the rest."""
    left = list(request.cases)
    while left:
        with tempfile.TemporaryFile() as log:
            answered = _run_process(replace(request, cases=tuple(left)), environment, log, take, tell)
            del left[:answered]
            if left:
                take(Row.of_case(left.pop(0), status="failed", error=f"its process died: {tail(log)}"))


def _run_process(
    request: Request,
    environment: dict[str, str],
    log: IO[bytes],
    take: Callable[[Row], None],
    tell: Callable[[Case, str, float], None],
) -> int:
    """Start a process, hand it the request, take its rows; how many there were."""
    cases: Sequence[Case] = request.cases
    num_rows = 0
    tell(cases[0], "starting", 0.0)
    for answer in answers_of("memomalloc.bench.upstream_process", request.as_json(), environment, log):
        if "row" in answer:
            take(Row.from_dict(answer["row"]))
            num_rows += 1
        else:
            tell(cases[num_rows], answer["stage"], answer["share"])
    return num_rows


def answers_of(module: str, request: str, environment: dict[str, str], log: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Start a process that measures, hand it a request, and give its answers; they end when it does.

    Args:
        module: what it runs.
        request: read from its stdin.
        environment: variables besides ours.
        log: gets its stderr.

    Raises:
        SessionError: it says that nothing can be measured.
    """
    with child_group(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **environment},
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.close()
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise SessionError(answer["error"])
            yield answer
        process.kill()


def tail(log: IO[bytes]) -> str:
    """What a process that died has printed last."""
    log.seek(0)
    return log.read().decode(errors="replace").strip()[-MAX_LOG_LENGTH:] or "it said nothing"
