"""A session that measures services: those of one mix and way are all there, and have their turns in slices.

So whatever else the machine does for some seconds happens to all of them. Interruptible; resumable after each group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np

from memomalloc.bench.service_process import Opening
from memomalloc.bench.service_results import Point, ServiceCase, ServiceResults, ServiceRow
from memomalloc.bench.session import SessionError, tail
from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.child_group import child_group
from memomalloc.errors import MemomallocError

#: Rates, unless they are given, in shares of what the fastest service answers when there are always more.
RATE_SHARES = (0.3, 0.5, 0.65, 0.8, 0.9, 1.0)
#: The share at which memory is watched.
_WATCHED_SHARE = 0.5
#: A service has the machine for so long before the next one has its turn.
SLICE_S = 2.0
#: An idle service's memory may have gone back: what comes first after its turn began does not count.
_LEAD_IN_S = 0.5
_SATURATION_S = 2.0
#: Longer than any plan's or allocator's own time for giving memory back: 5 and 10 seconds.
_REST_S = 12.0
#: After so long without an answer a service is given up; compilers take minutes.
_PATIENCE_S = 1200.0

Told = Callable[[str, float], None]


class ServiceFailedError(MemomallocError, RuntimeError):
    """A service does not answer any more; the message says why."""


class _Candidate:
    """A service that is measured: its process, and what is known of it."""

    def __init__(self, case: ServiceCase, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self.case, self.row = case, ServiceRow(**dataclasses.asdict(case))
        self.points: list[Point] = []
        self.has_failed = False
        self._process, self._log = process, log

    def tell(self, order: dict[str, Any]) -> None:
        """Give it an order; :meth:`hear` has the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ServiceFailedError(f"its process died: {tail(self._log)}") from None

    def hear(self) -> dict[str, Any]:
        """Its next answer.

        Raises:
            ServiceFailedError: there is none.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            self._process.kill()
            raise ServiceFailedError(f"no answer for {_PATIENCE_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise ServiceFailedError(f"its process died: {tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ServiceFailedError(answer["error"])
        return answer

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """An order and its answer."""
        self.tell(order)
        return self.hear()

    def add(self, **figures: Any) -> None:
        """What is known more of it."""
        self.row = dataclasses.replace(self.row, **figures)

    def fail(self, error: Exception) -> None:
        """It is measured no more."""
        self.has_failed = True
        self.row = ServiceRow(**dataclasses.asdict(self.case), error=str(error))
        self.close()

    def close(self) -> None:
        """Let its process end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def run_service_session(
    cases: Sequence[ServiceCase],
    results: ServiceResults,
    *,
    path: str | Path | None,
    rates: Sequence[float] = (),
    on_progress: Callable[[ServiceCase, str, float], None] = lambda case, stage, share: None,
    on_row: Callable[[ServiceRow], None] = lambda row: None,
) -> None:
    """Measure all cases that ``results`` has no row of.

    Args:
        cases: those of one repetition, mix and way follow each other; they are measured in turns.
        results: gets the rows, and the rates of each mix and way.
        path: where the results are written after each group, at once and whole; None: nowhere.
        rates: requests a second; empty: :data:`RATE_SHARES` of what the fastest service answers at most.
        on_progress: told a case of the group at hand, what is being done, and the share of the group that is done.
        on_row: told each new row.

    Raises:
        SessionError: nothing can be measured here.
        MissingDependencyError: an allocator is not installed.
        OSError: the file cannot be written.
    """
    done = {row.case for row in results.rows}
    left = [case for case in cases if case not in done]
    # Before anything is measured: whether all of them are there.
    results.environment |= {name: UPSTREAMS[name].environment() for name in {case.upstream for case in left}}
    for _, cases_of_group in groupby(left, key=lambda case: (case.repetition, case.mix, case.way)):
        group = list(cases_of_group)

        def tell(stage: str, share: float, case: ServiceCase = group[0]) -> None:
            on_progress(case, stage, share)

        rows = _measure_group(group, results, rates, tell)
        results.rows += rows
        if path is not None:
            results.save(path)
        for row in rows:
            on_row(row)


def _measure_group(
    cases: Sequence[ServiceCase], results: ServiceResults, given_rates: Sequence[float], tell: Told
) -> list[ServiceRow]:
    with contextlib.ExitStack() as stack:
        candidates = []
        for number, case in enumerate(cases):
            tell(f"starting {case.side} over {case.upstream}", 0.3 * number / len(cases))
            candidate = stack.enter_context(_started(case, results.environment[case.upstream]))
            candidates.append(candidate)
            with _failing(candidate):
                candidate.ask(dataclasses.asdict(_opening(case, results)))
                candidate.add(**candidate.ask({"do": "start"}))
        saturation_s = 0.2 if results.smoke else _SATURATION_S
        for candidate in _alive(candidates):
            tell(f"saturating {candidate.case.side} over {candidate.case.upstream}", 0.3)
            with _failing(candidate):
                candidate.add(**candidate.ask({"do": "saturate", "seconds": saturation_s}))
        alive = list(_alive(candidates))
        if alive:
            rates = _rates(cases[0], results, given_rates, [candidate.row.saturated_per_s for candidate in alive])
            _watch_memory(candidates, results, rates, tell)
            _take_points(candidates, results, rates, tell)
        for candidate in _alive(candidates):
            with _failing(candidate):
                found = candidate.ask({"do": "close"})
                # The kernel's peak may miss some pages of each processor.
                seen_bytes = max(candidate.row.steady_bytes, candidate.row.rest_bytes)
                found["peak_bytes"] = max(found["peak_bytes"], seen_bytes)
                candidate.add(points=candidate.points, **found)
        for candidate in candidates:
            candidate.close()
        if not alive and all(candidate.row.error == candidates[0].row.error for candidate in candidates):
            raise SessionError(candidates[0].row.error)
        return [candidate.row for candidate in candidates]


def _rates(
    case: ServiceCase, results: ServiceResults, given: Sequence[float], saturated: Sequence[float]
) -> list[float]:
    """The rates of a mix and way: the same in all repetitions."""
    name = f"{case.mix}, {case.way}"
    if name not in results.rates:
        shares = RATE_SHARES[:2] if results.smoke else RATE_SHARES
        results.rates[name] = sorted(given) or [_two_digits(share * max(saturated)) for share in shares]
    return results.rates[name]


def _two_digits(value: float) -> float:
    """A number with two digits that matter."""
    return float(f"{value:.1e}")


def _watch_memory(
    candidates: Sequence[_Candidate], results: ServiceResults, rates: Sequence[float], tell: Told
) -> None:
    """How much memory a service has while requests come all the time, and afterwards."""
    rate = min(rates, key=lambda rate: abs(rate - _WATCHED_SHARE * rates[-1]))
    rest_s = 0.2 if results.smoke else _REST_S
    resting = []
    for number, candidate in enumerate(_alive(candidates)):
        case = candidate.case
        tell(f"watching {case.side} over {case.upstream}", 0.3 + 0.2 * number / len(candidates))
        with _failing(candidate):
            found = candidate.ask(
                {
                    **{"do": "load", "rate_per_s": rate, "seconds": max(results.seconds, 0.3), "lead_in_s": _LEAD_IN_S},
                    **{"seed": [results.seed, case.repetition, 0], "watch": True},
                }
            )
            curve = found["curve"]
            mebibytes = [mebibytes for _, mebibytes in curve[len(curve) // 2 :]]
            candidate.add(curve=curve, steady_bytes=round(statistics.median(mebibytes) * 2**20))
            # The next one is measured while this one lies idle.
            candidate.tell({"do": "rest", "seconds": rest_s})
            resting.append(candidate)
    for candidate in resting:
        with _failing(candidate):
            rested = candidate.hear()
            ended_s = candidate.row.curve[-1][0]
            later = [[ended_s + seconds, mebibytes] for seconds, mebibytes in rested["curve"]]
            candidate.add(curve=candidate.row.curve + later, rest_bytes=rested["rest_bytes"])


def _take_points(candidates: Sequence[_Candidate], results: ServiceResults, rates: Sequence[float], tell: Told) -> None:
    """Latencies at all rates, slice by slice in turns; who did not keep up at a rate is not asked at higher ones."""
    num_slices = max(math.ceil(results.seconds / SLICE_S), 1)
    for place, rate in enumerate(rates):
        keeping_up = [
            candidate for candidate in _alive(candidates) if not candidate.points or candidate.points[-1].keeps_up
        ]
        found: dict[ServiceCase, list[dict[str, Any]]] = {candidate.case: [] for candidate in keeping_up}
        for number in range(num_slices):
            tell(f"{rate:g} requests a second", 0.5 + 0.5 * (place + number / num_slices) / len(rates))
            for candidate in keeping_up:
                order = {
                    **{"do": "load", "rate_per_s": rate, "seconds": results.seconds / num_slices, "watch": False},
                    "lead_in_s": _LEAD_IN_S if not results.smoke else 0.0,
                    "seed": [results.seed, candidate.case.repetition, place + 1, number],
                }
                if not candidate.has_failed:
                    with _failing(candidate):
                        found[candidate.case].append(candidate.ask(order))
        for candidate in _alive(keeping_up):
            slices = found[candidate.case]
            candidate.points.append(
                Point.of(
                    rate,
                    [np.array(part["latencies_ms"]) for part in slices],
                    num_unanswered=sum(part["num_unanswered"] for part in slices),
                    faults=sum(part["faults"] for part in slices),
                    cpu_s=sum(part["cpu_s"] for part in slices),
                )
            )


def _opening(case: ServiceCase, results: ServiceResults) -> Opening:
    return Opening(case.mix, case.way, case.upstream, case.side, results.workers, results.seed, results.smoke)


@contextlib.contextmanager
def _started(case: ServiceCase, environment: dict[str, str]) -> Iterator[_Candidate]:
    """A process that waits to be told what it serves."""
    with (
        tempfile.TemporaryFile() as log,
        child_group(
            [sys.executable, "-m", "memomalloc.bench.service_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
            text=True,
        ) as process,
    ):
        yield _Candidate(case, process, log)


def _alive(candidates: Sequence[_Candidate]) -> Iterator[_Candidate]:
    return (candidate for candidate in candidates if not candidate.has_failed)


@contextlib.contextmanager
def _failing(candidate: _Candidate) -> Iterator[None]:
    """A service that fails has a row that says so, and the others go on."""
    try:
        yield
    except ServiceFailedError as error:
        candidate.fail(error)
