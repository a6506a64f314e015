"""Several threads, several wrappers, one process: each running call has an arena of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

import memomalloc
from memomalloc.runtime.memory.statistics import UPSTREAM_REASONS
from models import Chain, chain_result, chain_values, conv_net, images
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.usefixtures("poison")

NUM_THREADS = 4


def _on_threads(work: Callable[[int], object], num_threads: int = NUM_THREADS) -> None:
    """Run ``work(i)`` on threads that start together; raise what any of them raised."""
    barrier = threading.Barrier(num_threads)

    def start(i: int) -> None:
        barrier.wait()
        work(i)

    with ThreadPoolExecutor(num_threads) as pool:
        for future in [pool.submit(start, i) for i in range(num_threads)]:
            future.result()


@contextmanager
def _served_apart_from_outputs(wrapper: Any, *, runs: int) -> Iterator[None]:
    """As ``fully_served``, but some outputs may go upstream.

    A thread that still holds its output has ended its run, so that another may take the arena; a third finds the
    output's place and the spare one occupied.
    """
    before = wrapper.stats()
    yield
    after = wrapper.stats()
    assert after.runs_replayed - before.runs_replayed == runs
    assert after.runs_unplanned == before.runs_unplanned
    assert after.requests_missing == before.requests_missing
    num_upstream = {
        reason: after.requests_upstream[reason] - before.requests_upstream[reason] for reason in UPSTREAM_REASONS
    }
    assert num_upstream["occupied"] < runs / 2
    assert sum(num_upstream.values()) == num_upstream["occupied"]


def test_threads_that_share_a_learned_wrapper_are_all_served() -> None:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    with torch.inference_mode():
        inputs = [images(seed) for seed in range(NUM_THREADS)]
        expected = [module(values) for values in inputs]
        learn(wrapper, inputs[0])

        @torch.inference_mode()
        def work(i: int) -> None:
            for _ in range(20):
                assert_equal_bits(wrapper(inputs[i]), expected[i])

        with _served_apart_from_outputs(wrapper, runs=NUM_THREADS * 20):
            _on_threads(work)
    stats = wrapper.stats()
    assert 1 <= stats.num_regions <= NUM_THREADS + 1
    assert stats.num_regions_in_use == 0
    assert len(wrapper.plans) == 1


def test_runs_that_overlap_in_time_have_arenas_of_their_own() -> None:
    barrier = threading.Barrier(NUM_THREADS)
    together = False

    def visit(step: int, values: torch.Tensor) -> None:
        if together:
            barrier.wait()  # all threads are in the same step of their runs
            seen.setdefault((step, values.data_ptr()), []).append(threading.get_ident())

    seen: dict[tuple[int, int], list[int]] = {}
    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    together = True
    outputs: dict[int, torch.Tensor] = {}
    with fully_served(wrapper, runs=NUM_THREADS):
        _on_threads(lambda i: outputs.update({i: wrapper(chain_values(i))}))
    for seed, output in outputs.items():
        assert_equal_bits(output, chain_result(chain_values(seed)))
    assert all(len(threads) == 1 for threads in seen.values())
    assert wrapper.stats().num_regions == NUM_THREADS


def test_threads_that_learn_at_once_learn_once() -> None:
    wrapper = memomalloc.optimize(Chain())

    def work(i: int) -> None:
        for seed in range(30):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))

    _on_threads(work)
    stats = wrapper.stats()
    assert stats.runs_recorded == 1
    assert stats.runs_replayed + stats.runs_recorded + sum(stats.runs_unplanned.values()) == NUM_THREADS * 30
    assert stats.runs_replayed > 0
    assert sum(stats.requests_upstream.values()) == stats.requests_upstream["occupied"]


def test_threads_with_signatures_of_their_own_and_room_for_few_plans() -> None:
    wrapper = memomalloc.optimize(Chain(), max_plans=2, warm_up_calls=0)

    def work(i: int) -> None:
        for seed in range(40):
            values = chain_values(seed, 100 * (1 + (seed // 4 + i) % NUM_THREADS))
            assert_equal_bits(wrapper(values), chain_result(values))

    _on_threads(work)
    assert len(wrapper.plans) <= 2
    assert wrapper.stats().num_bad_frees == 0


def test_wrappers_used_by_turns_on_several_threads() -> None:
    wrappers = [memomalloc.optimize(Chain(depth)) for depth in (2, 4, 6)]
    for wrapper in wrappers:
        learn(wrapper, chain_values(0))

    def work(i: int) -> None:
        for seed in range(30):
            depth = (2, 4, 6)[(seed + i) % 3]
            assert_equal_bits(wrappers[depth // 2 - 1](chain_values(seed)), chain_result(chain_values(seed), depth))

    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.enter_context(_served_apart_from_outputs(wrapper, runs=NUM_THREADS * 10))
        _on_threads(work)


def test_outputs_handed_to_another_thread_as_its_inputs() -> None:
    wrapper = memomalloc.optimize(Chain(2))
    learn(wrapper, chain_values(0))
    values = chain_values(1)
    expected = chain_values(1)
    for _ in range(10):
        handed = [values]

        def work(i: int) -> None:
            handed[0] = wrapper(handed[0])  # noqa: B023

        _on_threads(work, num_threads=1)
        values = handed[0]
        expected = chain_result(expected, 2)
    assert_equal_bits(values, expected)


def test_threads_that_come_and_go_leave_nothing_behind() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))

    def work(i: int) -> None:
        assert_equal_bits(wrapper(chain_values(i)), chain_result(chain_values(i)))

    with _served_apart_from_outputs(wrapper, runs=60):
        for _ in range(20):
            _on_threads(work, num_threads=3)
    assert wrapper.stats().num_regions <= 4


def test_plans_are_forgotten_while_threads_run() -> None:
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=0)
    stop = threading.Event()

    def work(i: int) -> None:
        if i == 0:
            for _ in range(50):
                wrapper.forget()
                wrapper(chain_values(0))
                memomalloc.stats()
            stop.set()
        while not stop.is_set():
            assert_equal_bits(wrapper(chain_values(i)), chain_result(chain_values(i)))

    _on_threads(work)
    wrapper.forget()  # threads may have learned after the last time, each with a region
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))
    assert wrapper.stats().num_regions == 1


def test_more_runs_at_once_than_arenas_run_unplanned() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    armed = _armed_with_two_arenas(memomalloc.plan(recording.trace))
    inside, leave = threading.Barrier(3), threading.Barrier(3)
    outcomes: list[str] = []

    def work(i: int) -> None:
        run = armed.begin()
        outcomes.append(run.outcome)
        inside.wait()
        assert_equal_bits(chain_result(chain_values(i)), chain_result(chain_values(i)))
        leave.wait()
        run.end()

    _on_threads(work, num_threads=3)
    assert sorted(outcomes) == ["no_arena", "started", "started"]


def _armed_with_two_arenas(plan: memomalloc.Plan) -> Any:
    from memomalloc.runtime.memory.armed_plan import ArenaSettings, ArmedPlan

    return ArmedPlan(plan, settings=ArenaSettings(max_arenas=2))
