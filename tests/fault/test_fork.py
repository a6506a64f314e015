"""fork() during a run and after, alone and beside other threads: parent and child both go on being served."""

from __future__ import annotations

import faulthandler
import os
import threading
import traceback
from collections.abc import Callable

import torch

import memomalloc
from child_process import in_child_process
from memomalloc.runtime.learning.learner import AFTERMATHS_BEFORE_RENEWAL
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn, lies_in_an_arena

POISONED = {"MEMOMALLOC_POISON": "1"}


def _assert_served(wrapper: memomalloc.OptimizedModule, seed: int) -> None:
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(seed))
    assert_equal_bits(output, chain_result(chain_values(seed)))


def _in_forked_child(call: Callable[[], object]) -> None:
    """Fork; run ``call`` in the child, which must succeed."""
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.dump_traceback_later(30, exit=True)
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _assert_exits_cleanly(child)


def _assert_exits_cleanly(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@in_child_process(env=POISONED)
def test_fork_between_runs() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    output = wrapper(chain_values(1))

    def in_child() -> None:
        _assert_served(wrapper, 2)
        assert_equal_bits(output, chain_result(chain_values(1)))
        fresh = memomalloc.optimize(Chain())
        learn(fresh, chain_values(0, 500))

    _in_forked_child(in_child)
    assert_equal_bits(output, chain_result(chain_values(1)))
    _assert_served(wrapper, 3)


@in_child_process(env=POISONED)
def test_fork_in_the_middle_of_a_run_ends_it_in_both_processes() -> None:
    children: list[int] = []

    def visit(step: int, values: torch.Tensor) -> None:
        if forking and step == 3:
            children.append(os.fork())

    forking = False
    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    forking = True
    code = 1
    try:
        _assert_served(wrapper, 1)
        forking = False
        _assert_served(wrapper, 2)
        code = 0
    finally:
        if children and children[0] == 0:
            os._exit(code)
    _assert_exits_cleanly(children[0])


@in_child_process(env=POISONED)
def test_fork_in_the_middle_of_a_recording() -> None:
    children: list[int] = []

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3 and wrapper.stats().runs_unplanned == {"warm_up": 1} and not children:
            children.append(os.fork())

    wrapper = memomalloc.optimize(Chain(visit=visit))
    code = 1
    try:
        learn(wrapper, chain_values(0))
        _assert_served(wrapper, 2)
        code = 0
    finally:
        if children and children[0] == 0:
            os._exit(code)
    _assert_exits_cleanly(children[0])


@in_child_process(env=POISONED)
def test_fork_while_other_threads_are_in_the_middle_of_runs() -> None:
    inside, leave = threading.Barrier(4), threading.Event()

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3 and threading.current_thread() is not threading.main_thread():
            inside.wait()
            leave.wait()

    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(wrapper(chain_values(1)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()

    def in_child() -> None:
        assert wrapper.stats().num_regions_in_use == 0  # their threads do not exist here
        # What the others held lives for ever here; they leave no room in the arena until it is renewed.
        for seed in range(AFTERMATHS_BEFORE_RENEWAL + 4):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
        _assert_served(wrapper, 1)

    try:
        _in_forked_child(in_child)
    finally:
        leave.set()
    for thread in threads:
        thread.join()
    for result in results:
        assert_equal_bits(result, chain_result(chain_values(1)))
    _assert_served(wrapper, 5)


@in_child_process(env=POISONED)
def test_fork_while_another_thread_learns() -> None:
    inside, leave = threading.Event(), threading.Event()

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3 and threading.current_thread() is not threading.main_thread():
            inside.set()
            leave.wait()

    wrapper = memomalloc.optimize(Chain(visit=visit), warm_up_calls=0)
    thread = threading.Thread(target=lambda: wrapper(chain_values(1)))
    thread.start()
    inside.wait()

    def in_child() -> None:
        learn(wrapper, chain_values(0))  # what the other thread began, it will not end here
        _assert_served(wrapper, 2)

    try:
        _in_forked_child(in_child)
    finally:
        leave.set()
    thread.join()
    learn(wrapper, chain_values(0))


@in_child_process(env=POISONED)
def test_many_forks_while_other_threads_run_and_learn() -> None:
    stop = threading.Event()

    def work(size: int) -> None:
        while not stop.is_set():
            fresh = memomalloc.optimize(Chain(), warm_up_calls=0)
            for _ in range(6):
                fresh(chain_values(0, size))
                memomalloc.stats()

    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    threads = [threading.Thread(target=work, args=(size,)) for size in (100, 5000)]
    for thread in threads:
        thread.start()
    try:
        for seed in range(20):
            _in_forked_child(lambda: _assert_served(wrapper, seed))  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@in_child_process(env=POISONED)
def test_a_child_frees_what_its_parent_allocated() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    outputs = [wrapper(chain_values(1))]
    assert lies_in_an_arena(outputs[0])

    def in_child() -> None:
        outputs.clear()
        wrapper.forget()
        assert wrapper.stats().num_bad_frees == 0

    _in_forked_child(in_child)
    assert_equal_bits(outputs[0], chain_result(chain_values(1)))
