"""Blocks that are left half-way: generators and coroutines that stop inside a replay or a recording."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.runtime import extension
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, join_until_gone, learn, lies_in_an_arena

pytestmark = pytest.mark.usefixtures("poison")


def _plan() -> memomalloc.Plan:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    return memomalloc.plan(recording.trace)


def _replaying(plan: memomalloc.Plan) -> Iterator[torch.Tensor]:
    """Hands out each intermediate tensor of a replay, the run still going on."""
    with memomalloc.replay(plan):
        values = chain_values(1)
        for _ in range(6):
            values = torch.sin(values) + values
            yield values


def _recording() -> Iterator[None]:
    with memomalloc.record():
        yield


def _on_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    join_until_gone(thread)


def _assert_everything_works() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(2))
    assert_equal_bits(output, chain_result(chain_values(2)))


def test_a_half_consumed_generator_keeps_its_tensors_and_its_run() -> None:
    generator = _replaying(_plan())
    first = next(generator)
    wrapper = memomalloc.optimize(Chain())
    for seed in range(5):  # nested: allocates from the generator's plan, which fits or not
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    assert wrapper.stats().runs_unplanned == {"nested": 5}
    assert_equal_bits(first, chain_result(chain_values(1), depth=1))
    generator.close()
    _assert_everything_works()


@pytest.mark.parametrize("where", ["same_thread", "other_thread"])
@pytest.mark.parametrize("end", ["close", "delete", "exhaust"])
def test_after_a_generator_ended_anywhere_its_thread_learns_and_replays(where: str, end: str) -> None:
    generators = [_replaying(_plan())]
    values = next(generators[0])

    def finish() -> None:
        if end == "close":
            generators[0].close()
        elif end == "exhaust":
            list(generators[0])
        generators.clear()
        gc.collect()

    if where == "same_thread":
        finish()
    else:
        _on_another_thread(finish)
    assert_equal_bits(values, chain_result(chain_values(1), depth=1))
    _assert_everything_works()


def test_a_generator_that_moves_between_threads() -> None:
    plan = _plan()
    for _ in range(3):
        generator = _replaying(plan)
        results = [next(generator)]
        _on_another_thread(lambda: results.extend(generator))  # noqa: B023
        for depth, values in enumerate(results, start=1):
            assert_equal_bits(values, chain_result(chain_values(1), depth))
    _assert_everything_works()


def test_interleaved_generators_do_not_mix_up_their_runs() -> None:
    plan = _plan()
    first, second = _replaying(plan), _replaying(plan)
    results = [next(first), next(second), next(first)]
    first.close()
    results.append(next(second))
    second.close()
    for values, depth in zip(results, (1, 1, 2, 2), strict=True):
        assert_equal_bits(values, chain_result(chain_values(1), depth))
    with memomalloc.replay(plan) as replay:
        chain_result(chain_values(1))
    assert replay.started


def test_coroutines_that_take_turns_inside_replays() -> None:
    plan = _plan()

    async def infer(seed: int) -> torch.Tensor:
        with memomalloc.replay(plan):
            values = chain_values(seed)
            for _ in range(6):
                values = torch.sin(values) + values
                await asyncio.sleep(0)
            return values

    async def infer_all() -> list[torch.Tensor]:
        return await asyncio.gather(*[infer(seed) for seed in range(5)])

    for seed, output in enumerate(asyncio.run(infer_all())):
        assert_equal_bits(output, chain_result(chain_values(seed)))
    _assert_everything_works()


@pytest.mark.parametrize("where", ["same_thread", "other_thread"])
def test_a_recording_in_a_generator_ends_with_it(where: str) -> None:
    generator = _recording()
    next(generator)
    if where == "same_thread":
        generator.close()
    else:
        _on_another_thread(generator.close)
    chain_result(chain_values(0))
    assert not extension.install().is_recording(), "allocations of this thread go on being looked up under a lock"
    _assert_everything_works()


@in_child_process(env={"MEMOMALLOC_POISON": "1"})
def test_a_generator_that_is_never_finished() -> None:
    global _never_finished
    _never_finished = _replaying(_plan())
    values = next(_never_finished)
    assert lies_in_an_arena(values)
    _on_another_thread(_assert_everything_works)  # other threads do not mind
    assert_equal_bits(values, chain_result(chain_values(1), depth=1))


@in_child_process(env={"MEMOMALLOC_POISON": "1"})
def test_a_thread_that_ends_inside_a_replay_gives_its_arena_back() -> None:
    generators = []
    plan = _plan()

    def start() -> None:
        generators.append(_replaying(plan))
        next(generators[-1])

    for _ in range(5):
        _on_another_thread(start)
    stats = memomalloc.stats()
    assert (stats.num_regions_in_use, stats.runs_replayed) == (0, 5)
    with memomalloc.replay(plan) as replay:
        chain_result(chain_values(1))
    assert replay.started
    generators.clear()
    _assert_everything_works()
