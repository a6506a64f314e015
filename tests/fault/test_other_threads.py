"""Tensors that are freed by other threads, or outlive the thread that made them."""

from __future__ import annotations

import gc
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import memomalloc
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn, lies_in_an_arena, upstream_requests

pytestmark = pytest.mark.usefixtures("poison")


class Dropper:
    """A thread that drops what it is handed: at once, or when :attr:`gate` opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.received: queue.Queue[torch.Tensor | None] = queue.Queue()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while (values := self.received.get()) is not None:
            self.gate.wait()
            del values
            self.received.task_done()

    def stop(self) -> None:
        self.received.put(None)
        self.thread.join()


def test_tensors_freed_by_another_thread_during_the_run_are_served_again() -> None:
    dropper = Dropper()

    def visit(step: int, values: torch.Tensor) -> None:
        if step > 0:
            dropper.received.put(previous.pop())
            dropper.received.join()  # the other thread has freed it, or it dies with the loop variable
        previous.append(values[:1])

    previous: list[torch.Tensor] = []
    wrapper = memomalloc.optimize(Chain(visit=visit))
    try:
        for seed in range(20):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
            previous.clear()
        with fully_served(wrapper, runs=1):
            wrapper(chain_values(0))
            previous.clear()
    finally:
        dropper.stop()


def test_tensors_freed_by_another_thread_after_the_run_block_only_until_then() -> None:
    dropper = Dropper()
    handing_over = False

    def visit(step: int, values: torch.Tensor) -> None:
        if handing_over:
            dropper.received.put(values)

    wrapper = memomalloc.optimize(Chain(visit=visit))
    try:
        learn(wrapper, chain_values(0))
        dropper.gate.clear()
        handing_over = True
        first = wrapper(chain_values(1))
        handing_over = False
        assert upstream_requests(wrapper, lambda: wrapper(chain_values(2))).keys() <= {"blocked", "occupied"}
        assert upstream_requests(wrapper, lambda: wrapper(chain_values(2)))["blocked"] > 0
        dropper.gate.set()
        dropper.received.join()
        assert_equal_bits(first, chain_result(chain_values(1)))
        with fully_served(wrapper, runs=1):
            assert_equal_bits(wrapper(chain_values(3)), chain_result(chain_values(3)))
    finally:
        dropper.stop()


def test_frees_that_race_with_the_run_never_hurt() -> None:
    dropper = Dropper()
    wrapper = memomalloc.optimize(Chain(12, visit=lambda step, values: dropper.received.put(values)))
    try:
        for seed in range(150):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed), 12))
    finally:
        dropper.stop()
    assert wrapper.stats().num_bad_frees == 0


def test_tensors_outlive_the_thread_that_made_them() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    outputs: list[torch.Tensor] = []
    for seed in range(6):  # fewer than make the wrapper learn anew
        thread = threading.Thread(target=lambda: outputs.append(wrapper(chain_values(seed))))  # noqa: B023
        thread.start()
        thread.join()
    assert lies_in_an_arena(outputs[0])
    for seed, output in enumerate(outputs):
        assert_equal_bits(output, chain_result(chain_values(seed)))
    assert wrapper.stats().num_regions <= 2  # of a thread that ended the next one takes the arena
    outputs.clear()
    del output
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))


def test_a_whole_wrapper_lived_on_a_thread_that_ended() -> None:
    outputs: list[torch.Tensor] = []

    def live() -> None:
        wrapper = memomalloc.optimize(Chain())
        learn(wrapper, chain_values(0))
        outputs.append(wrapper(chain_values(1)))

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    gc.collect()
    assert lies_in_an_arena(outputs[0])
    assert_equal_bits(outputs[0], chain_result(chain_values(1)))


def test_outputs_are_freed_by_many_threads_at_once_after_the_wrapper_is_gone() -> None:
    for _ in range(20):
        wrapper = memomalloc.optimize(Chain(), warm_up_calls=0)
        outputs = []
        for seed in range(10):
            outputs.append([wrapper(chain_values(seed)) for _ in range(2)])
        with ThreadPoolExecutor(4) as pool:
            for pair in outputs:
                pool.submit(pair.clear)
            del wrapper
            gc.collect(0)
    assert memomalloc.stats().num_bad_frees == 0
