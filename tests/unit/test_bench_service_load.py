from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from memomalloc.bench.service_load import WAYS, Crew, Schedule, WorkerDiedError

MakeCrew = Callable[..., Crew]


@pytest.fixture(params=WAYS)
def make_crew(request: pytest.FixtureRequest) -> Iterator[MakeCrew]:
    crews: list[Crew] = []

    def make(num_workers: int, answer: Callable[[int], Any], **questions: Callable[[], Any]) -> Crew:
        prepare = contextlib.nullcontext
        crews.append(Crew(request.param, num_workers, answer, prepare=prepare, questions=questions))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


def slow(kind: int) -> None:
    time.sleep(0.05)


def at(*arrivals_s: float, give_up_s: float = 10.0) -> Schedule:
    return Schedule(np.array(arrivals_s), np.zeros(len(arrivals_s), dtype=np.int64), give_up_s)


def test_a_request_that_has_to_wait_counts_from_when_it_came(make_crew: MakeCrew) -> None:
    served = make_crew(1, slow).serve(at(0, 0.01, 0.02))
    assert served.num_unanswered == 0
    # Whoever counts from when a request was begun to be answered finds 50 for all of them.
    assert (served.latencies_ms >= [50, 90, 130]).all()
    assert served.seconds >= 0.15


def test_a_request_that_comes_later_is_not_answered_before(make_crew: MakeCrew) -> None:
    served = make_crew(1, lambda kind: None).serve(at(0, 0.2))
    assert served.seconds >= 0.2
    assert (served.latencies_ms >= 0).all()


def test_workers_answer_side_by_side(make_crew: MakeCrew) -> None:
    # One alone would take 1.6 s; sleepers need no processor.
    served = make_crew(4, lambda kind: time.sleep(0.4)).serve(at(0, 0, 0, 0))
    assert served.seconds < 1.5


def test_what_nobody_begins_in_time_is_left_and_counts_with_what_it_waited(make_crew: MakeCrew) -> None:
    served = make_crew(1, slow).serve(at(0, 0, 0, 0, 0, 0, give_up_s=0.12))
    assert 2 <= served.num_unanswered <= 5
    left = served.latencies_ms[-served.num_unanswered :]
    assert (left >= 119).all()


def test_each_request_is_answered_once_by_its_kind(make_crew: MakeCrew, tmp_path: Any) -> None:
    path = tmp_path / "answered"
    path.touch()

    def answer(kind: int) -> None:
        with path.open("a") as file:
            file.write(f"{kind}\n")

    crew = make_crew(3, answer)
    for _ in range(2):
        path.write_text("")
        crew.serve(Schedule.at_once(list(range(20))))
        assert sorted(int(line) for line in path.read_text().split()) == list(range(20))


def test_questions_are_asked_of_each_process(make_crew: MakeCrew) -> None:
    crew = make_crew(2, slow, process=os.getpid)
    assert crew.ask("process") == crew.processes


def test_what_answering_raises_is_raised(make_crew: MakeCrew) -> None:
    class OwnError(Exception):
        pass

    def fail(kind: int) -> None:
        raise ValueError("no") if kind else OwnError("own")

    crew = make_crew(1, fail)
    with pytest.raises(ValueError, match="no"):
        crew.serve(Schedule.at_once([1]))
    with pytest.raises(RuntimeError, match="OwnError: own"):
        crew.serve(Schedule.at_once([0]))


def test_a_process_that_ends_is_noticed() -> None:
    crew = Crew("processes", 2, lambda kind: os._exit(1), prepare=contextlib.nullcontext, questions={})
    with pytest.raises(WorkerDiedError):
        crew.serve(Schedule.at_once([0, 0, 0]))
    crew.close()


def test_the_processors_time_is_that_of_all_workers(make_crew: MakeCrew) -> None:
    def work(kind: int) -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.05:
            pass

    served = make_crew(2, work).serve(at(0, 0))
    assert 0.1 <= served.usage.cpu_s < 1


def test_equal_seeds_give_equal_schedules_at_the_rate() -> None:
    one, same, other = (Schedule.open(1000, 2.0, [0.25, 0.75], seed) for seed in ([1, 2], [1, 2], [1, 3]))
    assert (one.arrivals_s == same.arrivals_s).all()
    assert (one.kinds == same.kinds).all()
    assert (one.arrivals_s != other.arrivals_s).any()
    assert len(one) == len(other) == 2000
    assert all(a <= b for a, b in itertools.pairwise(one.arrivals_s))
    assert one.arrivals_s[0] >= 0
    assert one.arrivals_s[-1] <= 2.0 <= one.give_up_s
    # 1,500 in the mean, with a deviation of 19.
    assert 1350 < one.kinds.sum() < 1650
    # Gaps of a Poisson process: as large in the mean as they vary.
    gaps = np.diff(one.arrivals_s)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.15)


def test_there_is_at_least_one_request() -> None:
    assert len(Schedule.open(0.1, 1.0, [1.0], [0])) == 1
