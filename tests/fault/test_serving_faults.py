"""Faults that a service meets: nothing is lost, nothing leaks, and the next call is served."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import memomalloc
from child_process import in_child_process
from memomalloc.bench.process import resident_bytes
from models import Chain, Steps, chain_result, chain_values, conv_net, images
from serving import assert_equal_bits, fully_served, learn

NUM_RAISES = int(os.environ.get("MEMOMALLOC_NUM_RAISES", "500"))


class _RaisingAtAnOperator(TorchDispatchMode):
    """Raises when so many operators ran."""

    def __init__(self, operators: int) -> None:
        super().__init__()
        self.left = operators

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("at an operator")
        return function(*args, **(kwargs or {}))


def test_a_model_that_raises_at_random_operators_again_and_again() -> None:
    chooser = random.Random(0)
    with torch.inference_mode():
        wrapper = memomalloc.optimize(conv_net())
        learn(wrapper, images(0))
        expected = conv_net()(images(0))
        before = wrapper.stats()
        for number in range(NUM_RAISES):
            with pytest.raises(RuntimeError, match="at an operator"), _RaisingAtAnOperator(chooser.randint(1, 11)):
                wrapper(images(0))
            if number % 50 == 0:
                with fully_served(wrapper, runs=1):
                    output = wrapper(images(0))
                assert_equal_bits(output, expected)
            if number == 50:
                resident = resident_bytes()
    after = wrapper.stats()
    assert after.num_regions == before.num_regions == 1
    assert after.num_regions_in_use == 0
    assert after.runs_recorded == before.runs_recorded
    assert after.num_bad_frees == 0
    assert resident_bytes() - resident < 8 << 20


@in_child_process()
def test_upstream_out_of_memory_is_the_callers_error_and_nothing_more() -> None:
    import resource

    model = Steps([1000])
    wrapper = memomalloc.optimize(model)
    learn(wrapper, chain_values(0))
    values = torch.zeros(1).expand(1 << 34)  # a huge tensor without memory
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
    for _ in range(20):
        model.sizes = (1 << 34,)
        with pytest.raises(RuntimeError, match=r"not enough memory|allocate memory"):
            wrapper(values)
    model.sizes = (1000,)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    learn(wrapper, chain_values(1))
    assert_equal_bits(wrapper(chain_values(1)), Steps([1000])(chain_values(1)))
    assert wrapper.stats().num_regions_in_use == 0


@pytest.mark.parametrize("max_bytes", [0, 1])
@in_child_process()
def test_an_arena_that_is_refused_leaves_calls_unplanned(max_bytes: int) -> None:
    wrapper = memomalloc.optimize(Chain(), max_bytes=max_bytes)
    for seed in range(10):
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    stats = wrapper.stats()
    assert stats.runs_unplanned["no_arena"] > 0
    assert stats.runs_replayed == stats.num_regions == 0


@in_child_process()
def test_advice_that_the_system_refuses_does_no_harm() -> None:
    # As on a kernel without huge pages: prctl(PR_SET_THP_DISABLE) makes the process have none.
    import ctypes

    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
    wrapper = memomalloc.optimize(Chain(), arenas=memomalloc.ArenaSettings(huge_pages=True, prefault=True))
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(1))
    assert_equal_bits(output, chain_result(chain_values(1)))


def test_a_worker_process_that_is_killed_takes_nothing_with_it(tmp_path: Path) -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    wrapper.save_plans(tmp_path / "plans")
    code = f"""
import memomalloc, models
wrapper = memomalloc.optimize(models.Chain(), plans={str(tmp_path / "plans")!r})
wrapper(models.chain_values(0))
assert wrapper.stats().runs_replayed == 1
print("serving", flush=True)
while True:
    wrapper(models.chain_values(0))
    wrapper.save_plans({str(tmp_path / "plans")!r})
"""
    for _ in range(2):  # the second finds the file whole, whenever the first was killed
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "serving\n"
            time.sleep(0.2)
            worker.kill()
        assert worker.returncode == -signal.SIGKILL
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(1))


def test_a_cancelled_request_leaves_its_run_to_end_by_itself() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    inside, leave = threading.Event(), threading.Event()

    def handle(seed: int) -> torch.Tensor:
        inside.set()
        leave.wait()
        return wrapper(chain_values(seed))

    async def cancel_a_request() -> None:
        request = asyncio.ensure_future(asyncio.to_thread(handle, 1))
        await asyncio.to_thread(inside.wait)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        leave.set()
        assert_equal_bits(await asyncio.to_thread(handle, 2), chain_result(chain_values(2)))

    asyncio.run(cancel_a_request())
    assert wrapper.stats().num_regions_in_use == 0
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(3))


def test_a_coroutine_that_is_cancelled_inside_a_replay() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    plan = memomalloc.plan(recording.trace)

    async def serve(started: asyncio.Event) -> None:
        with memomalloc.replay(plan):
            kept = torch.sin(chain_values(1))
            started.set()
            await asyncio.sleep(60)
            assert kept is None, "never reached"

    async def cancel() -> None:
        started = asyncio.Event()
        request = asyncio.ensure_future(serve(started))
        await started.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(cancel())
    for _ in range(2):
        with memomalloc.replay(plan) as replay:
            output = chain_result(chain_values(2))
        assert replay.started
    assert_equal_bits(output, chain_result(chain_values(2)))


def test_a_signal_during_a_run() -> None:
    class InterruptedRunError(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        assert wrapper.stats().runs_replayed > 0  # a handler may look, and may run torch
        assert_equal_bits(wrapper(chain_values(7)), chain_result(chain_values(7)))
        if raising:
            raise InterruptedRunError

    def visit(step: int, values: torch.Tensor) -> None:
        nonlocal hit
        if step == hit:
            hit = -1  # the handler's own call is not hit again
            os.kill(os.getpid(), signal.SIGUSR1)

    hit, raising = -1, False
    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for raising in (False, True):
            for step in range(6):
                hit = step
                if raising:
                    with pytest.raises(InterruptedRunError):
                        wrapper(chain_values(step))
                else:
                    assert_equal_bits(wrapper(chain_values(step)), chain_result(chain_values(step)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert wrapper.stats().num_regions_in_use == 0
    learn(wrapper, chain_values(0))
