"""The interpreter ends while tensors live, runs go on, or threads run: exit code 0, and nothing on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process, run_python
from models import Chain, chain_result, chain_values, conv_net, images
from serving import learn, lies_in_an_arena

_until_exit: list[Any] = []  # module state, cleared late by the interpreter


class _Resurrected:
    """Uses torch in its finalizer, when much of the interpreter is gone."""

    def __init__(self, output: torch.Tensor) -> None:
        self.output = output

    def __del__(self) -> None:
        self.output = self.output * 2


@in_child_process()
def test_outputs_live_at_exit() -> None:
    with torch.inference_mode():
        wrapper = memomalloc.optimize(conv_net())
        learn(wrapper, images(0))
        _until_exit.append(wrapper(images(1)))
    assert lies_in_an_arena(_until_exit[0])


@in_child_process()
def test_outputs_live_at_exit_in_a_cycle_and_with_a_finalizer() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    _until_exit.extend([wrapper, wrapper(chain_values(1)), _Resurrected(wrapper(chain_values(2))), _until_exit])


@in_child_process()
def test_outputs_held_by_torch_itself_live_at_exit() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    torch.held_by_torch = wrapper(chain_values(1))
    sys.held_by_sys = wrapper(chain_values(2))


@in_child_process()
def test_exit_inside_a_replay() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    _until_exit.append(memomalloc.replay(memomalloc.plan(recording.trace)).__enter__())
    _until_exit.append(chain_result(chain_values(1)))
    sys.exit(0)


@in_child_process()
def test_exit_inside_a_recording() -> None:
    _until_exit.append(memomalloc.record().__enter__())
    _until_exit.append(chain_result(chain_values(1)))


@in_child_process()
def test_exit_while_daemon_threads_are_in_the_middle_of_runs() -> None:
    # Parked, since torch itself aborts the process when a daemon thread runs an operator at exit.
    inside, never = threading.Barrier(4), threading.Event()

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3 and threading.current_thread() is not threading.main_thread():
            inside.wait()
            never.wait()

    wrapper = memomalloc.optimize(Chain(visit=visit))
    learn(wrapper, chain_values(0))
    for _ in range(3):
        threading.Thread(target=wrapper, args=(chain_values(1),), daemon=True).start()
    inside.wait()
    assert wrapper.stats().num_regions_in_use == 3


def _park(inside: threading.Barrier) -> None:
    """Stay, and ask for the interpreter's lock again and again: at exit the thread is ended as it does."""
    if threading.current_thread() is not threading.main_thread():
        inside.wait()
        while True:
            time.sleep(0.001)


def _parking(inside: threading.Barrier) -> Callable[[int, torch.Tensor], None]:
    """Parks in a step in the middle of a chain."""

    def visit(step: int, values: torch.Tensor) -> None:
        if step == 3:
            _park(inside)

    return visit


@in_child_process()
def test_exit_while_counted_tensors_live_also_in_a_daemon_thread() -> None:
    inside = threading.Barrier(2)

    def park() -> None:
        held = chain_result(chain_values(2))
        _park(inside)
        del held

    memomalloc.reset_peak_memory_stats()
    _until_exit.append(chain_result(chain_values(1)))
    threading.Thread(target=park, daemon=True).start()
    inside.wait()
    assert memomalloc.memory_allocated() > 0


def _problem() -> memomalloc.Problem:
    starts = [i * 7 % 997 for i in range(3000)]
    return memomalloc.Problem.from_arrays([i * 31 % 997 + 1 for i in range(3000)], starts, [s + 60 for s in starts])


#: What gives up Python's lock, for a moment or for longer.
WITHOUT_THE_LOCK: dict[str, Callable[[], object]] = {
    "limit": lambda: memomalloc.set_memory_limit(1 << 30),
    "release after": lambda: memomalloc.set_release_after(5.0),
    "release": memomalloc.release,
    "plan": lambda: memomalloc.plan(_problem(), time_limit_s=0.5),
    "plan that is told of": lambda: memomalloc.plan(_problem(), time_limit_s=0.5, progress=lambda _: None),
    "plan of a device": lambda: memomalloc.plan_device(
        memomalloc.DeviceProblem.of(
            [memomalloc.DeviceMemory("m", 100), memomalloc.DeviceMemory("n", cost_per_byte=1)],
            [memomalloc.DeviceBuffer(str(i), i + 1, ((i, i + 9),)) for i in range(40)],
        ),
        time_limit_s=0.2,
    ),
    "bound": lambda: _problem().lower_bound_bytes,
}


@pytest.mark.parametrize("what", WITHOUT_THE_LOCK)
@in_child_process()
def test_exit_while_a_daemon_thread_is_without_pythons_lock(what: str) -> None:
    memomalloc.memory_stats()
    began = threading.Event()

    def again_and_again() -> None:
        while True:
            began.set()
            WITHOUT_THE_LOCK[what]()

    threading.Thread(target=again_and_again, daemon=True).start()
    began.wait()
    time.sleep(0.2)


@in_child_process()
def test_exit_while_daemon_threads_are_in_calls_of_every_kind() -> None:
    inside = threading.Barrier(6)
    park = _parking(inside)

    def run_in_daemon(call: Any) -> None:
        threading.Thread(target=call, args=(chain_values(1),), daemon=True).start()

    run_in_daemon(memomalloc.optimize(Chain(visit=park), warm_up_calls=0))  # recorded
    run_in_daemon(memomalloc.optimize(Chain(visit=park)))  # runs as it is
    run_in_daemon(memomalloc.optimize(Chain(visit=park), inplace=True))
    run_in_daemon(memomalloc.optimize(lambda values: [park(3, values), chain_result(values)]))
    rare = memomalloc.optimize(Chain(visit=park), max_plans=1)  # learns while another plan of it is armed
    learn(rare, chain_values(0))
    threading.Thread(target=rare, args=(chain_values(1, 77),), daemon=True).start()
    inside.wait()


@in_child_process()
def test_exit_while_a_daemon_thread_is_in_a_call_whose_frames_are_looked_at() -> None:
    """As a compiler does whose program calls us: the code of our methods runs then."""
    inside = threading.Barrier(2)
    park = _parking(inside)

    wrapper = memomalloc.optimize(Chain(visit=park))
    learn(wrapper, chain_values(0))

    def looked_at() -> None:
        torch._C._dynamo.eval_frame.set_eval_frame(False)
        wrapper(chain_values(1))

    threading.Thread(target=looked_at, daemon=True).start()
    inside.wait()


@in_child_process()
def test_exit_while_a_daemon_thread_waits_for_memory() -> None:
    inside = threading.Barrier(2)
    park = _parking(inside)

    arenas = memomalloc.ArenaSettings(max_arenas=1, wait_s=60)
    wrapper = memomalloc.optimize(Chain(visit=park), arenas=arenas)
    learn(wrapper, chain_values(0))
    for _ in range(3):
        threading.Thread(target=wrapper, args=(chain_values(1),), daemon=True).start()
    inside.wait()
    time.sleep(0.2)  # until the others wait, in slices of 50 ms


@in_child_process()
def test_exit_while_daemon_threads_have_unusual_arguments_compared() -> None:
    """Python of the program's and of ours that native code calls besides the function."""
    inside = threading.Barrier(3)

    class Parks:
        def __init__(self, where: str) -> None:
            self.where = where

        def _come(self, where: str) -> None:
            if where == self.where:
                _park(inside)

        def __hash__(self) -> int:
            self._come("hash")
            return 1

        def __eq__(self, other: object) -> bool:
            self._come("eq")
            return isinstance(other, Parks)

    def run(values: torch.Tensor, _: Parks) -> torch.Tensor:
        return chain_result(values)

    wrapper = memomalloc.optimize(run)
    for _ in range(6):
        wrapper(chain_values(0), Parks("nowhere"))
    for where in ("hash", "eq"):
        threading.Thread(target=wrapper, args=(chain_values(1), Parks(where)), daemon=True).start()
    inside.wait()


@pytest.mark.parametrize("how", ["sys.exit(3)", "os._exit(3)", "os.abort()"])
def test_the_exit_code_is_the_programs(how: str) -> None:
    child = run_python(f"""
        import os, sys, memomalloc, models
        wrapper = memomalloc.optimize(models.Chain(), example_inputs=models.chain_values(0))
        output = wrapper(models.chain_values(1))
        {how}
    """)
    assert child.returncode == (-6 if how == "os.abort()" else 3), child.stderr
