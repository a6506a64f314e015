"""torch.cuda's counters for the CPU, to the byte. Counting does not end: each test is a process of its own."""

from __future__ import annotations

import os
import threading

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.errors import MemomallocError, NotCountingError, OptionError
from models import Chain, chain_values
from serving import errors_in_threads, fully_served, learn

#: Of a tensor of `Chain` for 1,000 numbers, and the most that a call has beside its input: the values of two steps, and
#: what lies between them.
STEP_BYTES = 4000
CALL_BYTES = 3 * STEP_BYTES


@in_child_process()
def test_nothing_is_counted_before_somebody_asks() -> None:
    for read in (memomalloc.memory_allocated, memomalloc.max_memory_allocated):
        with pytest.raises(NotCountingError, match=r"memomalloc\.reset_peak_memory_stats\(\)"):
            read()
    assert issubclass(NotCountingError, MemomallocError)
    before = torch.empty(100)
    memomalloc.reset_peak_memory_stats()
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (0, 0)
    del before
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (0, 0)


@in_child_process()
def test_the_peak_is_that_since_the_last_reset() -> None:
    memomalloc.reset_peak_memory_stats()
    first = torch.empty(1001, dtype=torch.uint8)
    view = first[10:]
    second = torch.empty(24, dtype=torch.float64)
    torch.empty(0)
    assert memomalloc.memory_allocated() == memomalloc.max_memory_allocated() == 1001 + 24 * 8
    del first
    assert memomalloc.memory_allocated() == 1001 + 24 * 8
    del view
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (24 * 8, 1001 + 24 * 8)
    memomalloc.reset_peak_memory_stats()
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (24 * 8, 24 * 8)
    del second
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (0, 24 * 8)


@in_child_process()
def test_planned_calls_count_as_unplanned_ones() -> None:
    model, values = Chain(), chain_values(0)
    planned = memomalloc.optimize(Chain())
    memomalloc.reset_peak_memory_stats()
    counted = []
    for call in (model, planned):
        if call is planned:
            learn(planned, values)
            assert memomalloc.memory_allocated() == 0
        for _ in range(2):
            memomalloc.reset_peak_memory_stats()
            output = call(values)
            counted.append((memomalloc.memory_allocated(), memomalloc.max_memory_allocated()))
            del output
            assert memomalloc.memory_allocated() == 0
    assert counted == 4 * [(STEP_BYTES, CALL_BYTES)]
    with fully_served(planned, runs=1):
        planned(values)


@in_child_process()
def test_a_plan_that_was_learned_before_counts_and_serves() -> None:
    model, values = memomalloc.optimize(Chain()), chain_values(0)
    learn(model, values)
    held = model(values)
    memomalloc.reset_peak_memory_stats()
    with fully_served(model, runs=1):
        output = model(values)
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (STEP_BYTES, CALL_BYTES)
    assert torch.equal(output, held)
    del held
    assert memomalloc.memory_allocated() == STEP_BYTES


@in_child_process()
def test_what_deviates_from_a_plan_is_counted() -> None:
    extra: list[torch.Tensor] = []
    is_extra = False

    def visit(step: int, _: torch.Tensor) -> None:
        if step == 3 and is_extra:
            extra.extend([torch.empty(77, dtype=torch.uint8), torch.empty(1 << 20, dtype=torch.uint8)])

    model, values = memomalloc.optimize(Chain(visit=visit)), chain_values(0)
    learn(model, values)
    memomalloc.reset_peak_memory_stats()
    is_extra = True
    output = model(values)
    assert memomalloc.memory_allocated() == STEP_BYTES + 77 + (1 << 20)
    extra.clear()
    assert memomalloc.memory_allocated() == STEP_BYTES
    del output
    assert memomalloc.memory_allocated() == 0


@in_child_process()
def test_a_recording_changes_no_count_and_a_count_no_recording() -> None:
    model, values = Chain(), chain_values(0)
    memomalloc.reset_peak_memory_stats()
    with memomalloc.record() as recording:
        output = model(values)
    assert (memomalloc.memory_allocated(), memomalloc.max_memory_allocated()) == (STEP_BYTES, CALL_BYTES)
    assert recording.trace.peak_live_bytes == CALL_BYTES
    del output
    assert memomalloc.memory_allocated() == 0


@in_child_process()
def test_all_threads_are_counted_and_frees_on_any_of_them() -> None:
    memomalloc.reset_peak_memory_stats()
    num_threads = 4
    kept: dict[int, list[torch.Tensor]] = {}
    all_have_theirs = threading.Barrier(num_threads)

    def work(thread: int) -> None:
        kept[thread] = [torch.empty(1000 + thread, dtype=torch.uint8) for _ in range(100)]
        all_have_theirs.wait(60)
        kept[(thread + 1) % num_threads].clear()

    assert errors_in_threads(work, num_threads) == []
    assert memomalloc.memory_allocated() == 0
    assert memomalloc.max_memory_allocated() == 100 * sum(1000 + thread for thread in range(num_threads))


@in_child_process()
def test_threads_that_replay_are_counted_together() -> None:
    model, values = memomalloc.optimize(Chain()), chain_values(0)
    learn(model, values)
    memomalloc.reset_peak_memory_stats()

    def work(_: int) -> None:
        for _ in range(50):
            assert torch.equal(model(values), expected)

    expected = Chain()(values)
    assert errors_in_threads(work, 3) == []
    assert memomalloc.memory_allocated() == STEP_BYTES
    # `torch.equal` may allocate, too.
    assert CALL_BYTES <= memomalloc.max_memory_allocated() <= STEP_BYTES + 3 * (CALL_BYTES + STEP_BYTES)


@in_child_process()
def test_a_forked_child_counts_on() -> None:
    memomalloc.reset_peak_memory_stats()
    values = torch.empty(1000, dtype=torch.uint8)
    child = os.fork()
    if child == 0:
        more = torch.empty(10, dtype=torch.uint8)
        had = memomalloc.memory_allocated()
        del values, more
        os._exit(0 if (had, memomalloc.memory_allocated()) == (1010, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memomalloc.memory_allocated() == memomalloc.max_memory_allocated() == values.numel()


def test_another_device_is_refused() -> None:
    for name in (memomalloc.reset_peak_memory_stats, memomalloc.memory_allocated, memomalloc.max_memory_allocated):
        for device in ("cuda", "meta", torch.device("cuda", 0)):
            with pytest.raises(OptionError, match="device must be the CPU or None"):
                name(device)


@in_child_process()
def test_the_cpu_by_any_of_its_names_is_the_device() -> None:
    for device in (None, "cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        memomalloc.reset_peak_memory_stats(device)
        assert memomalloc.memory_allocated(device) == memomalloc.max_memory_allocated(device) == 0
