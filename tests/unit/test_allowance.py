"""What learning may cost a program that never asked for it."""

from __future__ import annotations

import gc
import resource
import time
from types import SimpleNamespace

import pytest

from memomalloc.runtime.learning import allowance as module
from memomalloc.runtime.learning.allowance import FAULT_SHARE, Allowance, Cost

SHARE = 0.02


class Machine:
    """A process and a thread that have taken what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.process_s, self.process_faults = 0.0, 10**9
        self.thread = Cost()
        monkeypatch.setattr(time, "process_time", lambda: self.process_s)
        usage = lambda who: SimpleNamespace(ru_minflt=self.process_faults)  # noqa: E731
        monkeypatch.setattr(resource, "getrusage", usage)
        monkeypatch.setattr(module.Cost, "of_thread", classmethod(lambda cls: self.thread))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def first_second(allowance: Allowance, machine: Machine, call: Cost) -> float:
    """When a lesson may begin: the CPU time of the process, to a hundredth of a second."""
    for hundredths in range(100_000):
        machine.process_s = hundredths / 100
        if allowance.covers_lesson(SHARE, call):
            return machine.process_s
    raise AssertionError("never")


def teach(allowance: Allowance, machine: Machine, call: Cost, took: Cost) -> None:
    with allowance.lesson(call):
        machine.thread += took


def test_a_long_call_of_few_requests_is_learned_soon(machine: Machine) -> None:
    """That a call takes long makes a lesson no longer."""
    short = first_second(Allowance(), machine, Cost(0.01, 0, 100))
    assert first_second(Allowance(), machine, Cost(1.0, 0, 100)) == short < 1.0


def test_a_call_of_many_requests_is_learned_later(machine: Machine) -> None:
    assert first_second(Allowance(), machine, Cost(0.1, 0, 10_000)) > 10


def test_lessons_never_take_more_than_their_share_once_one_was_measured(machine: Machine) -> None:
    allowance = Allowance()
    call = Cost(0.02, 0, 1000)
    for _ in range(50):
        machine.process_s = first_second(allowance, machine, call)
        teach(allowance, machine, call, Cost(0.02 + 0.2))
        if allowance.spent.cpu_s > 0.5:
            assert allowance.spent.cpu_s <= SHARE * machine.process_s + 1e-9


def test_what_lessons_cost_is_learned(machine: Machine) -> None:
    dear, cheap = Allowance(), Allowance()
    call = Cost(0.02, 0, 1000)
    teach(dear, machine, call, Cost(0.02 + 0.5))
    teach(cheap, machine, call, Cost(0.02))
    dear.spent = cheap.spent = Cost()
    assert first_second(dear, machine, call) > 20 * first_second(cheap, machine, call)


def test_collections_that_come_meanwhile_are_not_of_the_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Cost, "of_thread", classmethod(lambda cls: Cost(time.thread_time())))
    heap = [[] for _ in range(500_000)]
    allowance = Allowance()
    began_s = time.thread_time()
    with allowance.lesson(Cost()):
        for _ in range(3):
            gc.collect()
    took_s = time.thread_time() - began_s
    assert allowance.spent.cpu_s < took_s / 4
    assert len(heap) == 500_000
    before_s = time.thread_time()
    with allowance.work():
        gc.collect()
    assert allowance.spent.cpu_s < (took_s + time.thread_time() - before_s) / 4
    assert not any("Measurement" in repr(callback) for callback in gc.callbacks)


def test_little_is_learned_from_small_calls(machine: Machine) -> None:
    allowance, fresh = Allowance(), Allowance()
    teach(allowance, machine, Cost(0.001, 0, 2), Cost(0.02))  # something else took long
    allowance.spent = Cost()
    call = Cost(0.02, 0, 1000)
    assert first_second(allowance, machine, call) < 4 * first_second(fresh, machine, call)


def test_page_faults_have_a_share_of_their_own(machine: Machine) -> None:
    machine.process_s = 1000.0
    call = Cost(0.1, 0, 10)
    machine.process_faults = 1000
    assert not Allowance().covers_lesson(SHARE, call)
    machine.process_faults = 10**6
    assert Allowance().covers_lesson(SHARE, call)


def test_a_call_that_faults_by_itself_may_be_recorded(machine: Machine) -> None:
    """A recorded call takes its large tensors from memory that is there: it has no more page faults than it had."""
    machine.process_s = 1000.0
    machine.process_faults = 70_000
    assert Allowance().covers_lesson(SHARE, Cost(0.3, 60_000, 10))
    assert not Allowance().covers_lesson(SHARE, Cost(0.3, 0, 10))


def test_page_faults_that_lessons_had_count(machine: Machine) -> None:
    machine.process_s = 1000.0
    machine.process_faults = 100_000
    allowance = Allowance()
    call = Cost(0.001, 0, 10)
    assert allowance.covers_lesson(SHARE, call)
    teach(allowance, machine, call, Cost(0.001, int(FAULT_SHARE * 100_000) + 1))
    assert not allowance.covers_lesson(SHARE, call)
