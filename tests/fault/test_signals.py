"""Exceptions of signal handlers, which come between any two calls of Python: a time-out, Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import pytest
import torch

import memomalloc
from child_process import in_child_process
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn

SECONDS = 1.5


class _LateError(Exception):
    pass


def _raise(*_: object) -> None:
    raise _LateError


def _report_unless_late(unraisable: sys.UnraisableHookArgs) -> None:
    """Python loses what a handler raises inside a callback of a weak reference, and says so: no fault of the work's."""
    if not isinstance(unraisable.exc_value, _LateError):
        sys.__unraisablehook__(unraisable)


def _work_for(seconds: float, work: object) -> None:
    # Not inside a `try`: since CPython 3.13 what a handler raises between two rounds of a loop passes that by.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()  # type: ignore[operator]


def _interrupt_for(seconds: float, work: object) -> int:
    """Call ``work`` over and over, and let a handler raise into it at moments that drift; how often it did."""
    sys.unraisablehook = _report_unless_late
    signal.signal(signal.SIGALRM, _raise)
    num_interrupts = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, 2e-4 + num_interrupts % 97 * 1e-6)
            _work_for(0.02, work)  # an exception may be lost: the next one is not waited for
        except _LateError:
            num_interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return num_interrupts


@in_child_process()
def test_a_handler_that_raises_leaves_no_run_open() -> None:
    wrapper = memomalloc.optimize(torch.nn.Linear(8, 8).eval(), keep_plans=True)
    values = torch.randn(1, 8)
    with torch.inference_mode():
        learn(wrapper, values)
        assert _interrupt_for(SECONDS, lambda: wrapper(values)) > 100
        assert wrapper.stats().num_regions_in_use == 0
        with fully_served(wrapper, runs=10):
            for _ in range(10):
                wrapper(values)


@in_child_process()
def test_a_handler_that_raises_while_calls_are_learned_lets_them_be_learned_later() -> None:
    logging.getLogger("memomalloc").setLevel(logging.ERROR)  # it says that hardly a call is planned
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=1)
    values = chain_values(0)

    def learn_again() -> None:
        wrapper.forget()
        for _ in range(6):
            wrapper(values)

    assert _interrupt_for(SECONDS, learn_again) > 50
    learn(wrapper, values)
    with fully_served(wrapper, runs=1):
        output = wrapper(values)
    assert_equal_bits(output, chain_result(values))
    with memomalloc.record() as recording:
        chain_result(values)
    assert recording.trace.num_buffers > 0


@pytest.mark.parametrize("asks", ["stats", "model"])
@in_child_process()
def test_a_handler_may_ask_for_counters_or_call_the_model(asks: str) -> None:
    logging.getLogger("memomalloc").setLevel(logging.ERROR)  # it says that hardly a call is planned
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=0)
    other = memomalloc.optimize(Chain(), warm_up_calls=0)
    num_asked = 0

    def ask(*_: object) -> None:
        nonlocal num_asked
        num_asked += 1
        if asks == "stats":
            memomalloc.stats()
            wrapper.stats()
        else:
            wrapper(chain_values(1))
            other(chain_values(1))
        # Anew each time: a handler that takes longer than its period would interrupt itself.
        signal.setitimer(signal.ITIMER_REAL, 5e-4 + num_asked % 97 * 1e-6)

    signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 5e-4)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        wrapper.forget()
        for seed in range(5):
            values = chain_values(seed)
            assert_equal_bits(wrapper(values), chain_result(values))
        memomalloc.stats()
    # Python complains of a signal that came before its handler was taken away, and is seen after it.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert num_asked > 50


@in_child_process()
def test_ctrl_c_does_not_wait_for_an_arena() -> None:
    inside, leave = threading.Event(), threading.Event()

    def model(values: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            leave.wait()
        return chain_result(values)

    wrapper = memomalloc.optimize(model, arenas=memomalloc.ArenaSettings(max_arenas=1, wait_s=60.0))
    learn(wrapper, chain_values(0))
    thread = threading.Thread(target=wrapper, args=(chain_values(0),))
    thread.start()
    inside.wait()
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wrapper(chain_values(0))
    assert time.monotonic() - start_s < 30
    leave.set()
    thread.join()
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))
