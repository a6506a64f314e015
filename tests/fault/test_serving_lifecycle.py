"""A long-lived service: threads that come and go, fork servers, models reloaded and plans swapped under traffic."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import memomalloc
from child_process import in_child_process
from models import Chain, Steps, chain_result, chain_values
from serving import assert_equal_bits, fully_served, is_accessible, learn, lies_in_an_arena, minor_faults


def test_a_thousand_short_threads_share_a_few_arenas() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    expected = [chain_result(chain_values(seed)) for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        if not torch.equal(wrapper(chain_values(seed % 4)), expected[seed % 4]):
            wrong.append(seed)

    before = wrapper.stats()
    for first in range(0, 1000, 8):
        threads = [threading.Thread(target=work, args=(first + i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    after = wrapper.stats()
    assert not wrong
    assert after.runs_replayed == before.runs_replayed + 1000
    assert after.num_regions <= 9
    assert after.num_regions_in_use == 0


@in_child_process()
def test_all_memory_goes_back_when_the_last_tensor_is_gone() -> None:
    barrier = threading.Barrier(3)
    together = False
    wrapper = memomalloc.optimize(Chain(depth=2, visit=lambda step, values: barrier.wait() if together else None))
    values = torch.randn(400_000)
    learn(wrapper, values)
    together = True
    outputs: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda call: outputs.append(call(values)), args=(wrapper,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del thread, threads
    addresses = [output.data_ptr() for output in outputs]
    assert all(map(lies_in_an_arena, outputs))
    del wrapper
    gc.collect()
    assert all(map(is_accessible, addresses))
    memomalloc.release()  # all but the tensors
    assert memomalloc.memory_stats().mapped_bytes >= sum(output.nbytes for output in outputs)
    assert_equal_bits(outputs[0], outputs[1])
    outputs.clear()
    memomalloc.release()
    assert memomalloc.memory_stats().mapped_bytes == 0


def _under_traffic(call: Callable[[], object], change: Callable[[], None], *, num_changes: int) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(num_changes):
            time.sleep(0.02)
            change()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def test_a_model_is_reloaded_under_traffic(poison: None) -> None:
    current = [memomalloc.optimize(Chain())]
    expected = chain_result(chain_values(0))
    known = memomalloc.stats().num_plans

    def reload() -> None:
        fresh = memomalloc.optimize(Chain(), time_limit_s=0)
        learn(fresh, chain_values(0))
        current[0] = fresh

    _under_traffic(lambda: assert_equal_bits(current[0](chain_values(0)), expected), reload, num_changes=15)
    with fully_served(current[0], runs=1):
        current[0](chain_values(0))
    gc.collect()
    assert memomalloc.stats().num_plans <= known + 1  # those of the models before are gone


def test_plans_are_dropped_and_learned_anew_under_traffic(poison: None) -> None:
    wrapper = memomalloc.optimize(Chain(), time_limit_s=0)
    expected = chain_result(chain_values(0))
    _under_traffic(lambda: assert_equal_bits(wrapper(chain_values(0)), expected), wrapper.forget, num_changes=30)
    learn(wrapper, chain_values(0))


def test_a_plan_grows_while_runs_are_in_flight(poison: None) -> None:
    wrapper = memomalloc.optimize(Chain(), shapes="merged", time_limit_s=0)
    sizes = iter(range(300, 100_000, 400))
    expected = chain_result(chain_values(0, 250))

    def grow() -> None:
        size = next(sizes)
        for _ in range(3):
            assert_equal_bits(wrapper(chain_values(1, size)), chain_result(chain_values(1, size)))

    _under_traffic(lambda: assert_equal_bits(wrapper(chain_values(0, 250)), expected), grow, num_changes=20)
    assert wrapper.stats().runs_replayed > 0
    assert wrapper.stats().num_regions_in_use == 0


def test_plans_are_saved_and_loaded_under_traffic(poison: None, tmp_path: Path) -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    wrapper.save_plans(tmp_path / "plans")
    expected = chain_result(chain_values(0))

    def load() -> None:
        wrapper.load_plans(tmp_path / "plans", strict=True)
        wrapper.save_plans(tmp_path / "others")

    _under_traffic(lambda: assert_equal_bits(wrapper(chain_values(0)), expected), load, num_changes=15)
    assert wrapper.stats().runs_recorded == 1


def _in_forked_children(num_children: int, call: Callable[[int], object]) -> None:
    children = []
    for number in range(num_children):
        child = os.fork()
        if child == 0:
            code = 1
            faulthandler.dump_traceback_later(60, exit=True)
            try:
                call(number)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * num_children


@in_child_process()
def test_a_fork_server_plans_before_the_fork_and_serves_after() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))

    def serve(number: int) -> None:
        threads = [threading.Thread(target=_serve, args=(wrapper,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrapper.stats().runs_recorded == 1  # those of the parent
        assert wrapper.stats().num_bad_frees == 0

    _in_forked_children(4, serve)
    _serve(wrapper)


def _serve(wrapper: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for seed in range(25):
        assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))


@in_child_process()
def test_children_are_forked_while_other_threads_replay() -> None:
    memomalloc.set_release_after(0.01)
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    _under_traffic(
        lambda: _serve(wrapper), lambda: _in_forked_children(2, lambda number: _serve(wrapper)), num_changes=5
    )


# --- Idle memory


@pytest.fixture
def released_soon() -> Iterator[None]:
    memomalloc.set_release_after(0.05)
    yield
    memomalloc.set_release_after(None)


def _pages_are_back(call: Callable[[], object]) -> bool:
    """Whether the pages of an idle region go within some seconds: the next call faults them in."""
    for _ in range(100):
        time.sleep(0.1)
        if minor_faults(call) > 300:
            return True
    return False


def _num_release_threads() -> int:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count("memomalloc-idle")


@pytest.mark.usefixtures("released_soon")
def test_an_idle_region_gives_its_pages_back_and_serves_again() -> None:
    wrapper = memomalloc.optimize(Steps([400_000] * 3, keep=True))
    values = torch.randn(400_000)
    expected = Steps([400_000] * 3, keep=True)(values)
    learn(wrapper, values)
    assert _pages_are_back(lambda: wrapper(values))
    with fully_served(wrapper, runs=1):
        output = wrapper(values)
    assert_equal_bits(output, expected)


@pytest.mark.usefixtures("released_soon")
def test_an_output_that_is_held_keeps_its_bytes_while_all_else_goes_back() -> None:
    wrapper = memomalloc.optimize(Steps([400_000] * 3, keep=True))
    values = torch.randn(400_000)
    learn(wrapper, values)
    output = wrapper(values)
    copy = output.clone()
    released = memomalloc.memory_stats().released_bytes
    end = time.monotonic() + 20
    while memomalloc.memory_stats().released_bytes == released and time.monotonic() < end:
        time.sleep(0.02)
    assert memomalloc.memory_stats().released_bytes > released
    assert lies_in_an_arena(output)
    assert_equal_bits(output, copy)


@in_child_process()
def test_a_forked_child_gives_pages_back_once_it_has_served() -> None:
    memomalloc.set_release_after(0.05)
    wrapper = memomalloc.optimize(Steps([400_000] * 3, keep=True))
    values = torch.randn(400_000)
    learn(wrapper, values)
    assert _num_release_threads() == 1

    def in_child(number: int) -> None:
        assert _num_release_threads() == 0
        wrapper(values)
        assert _num_release_threads() == 1
        assert _pages_are_back(lambda: wrapper(values))

    _in_forked_children(1, in_child)


@in_child_process()
def test_a_thread_is_there_only_while_there_is_memory_to_give_back() -> None:
    wrapper = memomalloc.optimize(Chain())
    wrapper(chain_values(0))
    assert _num_release_threads() == 0
    memomalloc.set_release_after(0)
    learn(wrapper, chain_values(0))
    assert _num_release_threads() == 0
    memomalloc.set_release_after(0.05)
    assert _num_release_threads() == 1
    end = time.monotonic() + 20
    while _num_release_threads() and time.monotonic() < end:
        time.sleep(0.05)
    assert _num_release_threads() == 0
    assert memomalloc.memory_stats().mapped_bytes == 0
    wrapper(chain_values(1))
    assert _num_release_threads() == 1


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e10])
def test_a_time_after_which_memory_goes_back_must_be_one(seconds: float) -> None:
    with pytest.raises(memomalloc.errors.OptionError, match="seconds must be"):
        memomalloc.set_release_after(seconds)


def test_the_former_options_of_arenas_say_what_has_taken_their_place() -> None:
    with pytest.warns(DeprecationWarning, match="outputs lie apart"):
        memomalloc.ArenaSettings(spare_places=2)
    with pytest.warns(DeprecationWarning, match=r"memomalloc.set_release_after\(\)"):
        memomalloc.ArenaSettings(release_after_s=3.0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_release_time_must_be_one(seconds: float) -> None:
    with pytest.raises(ValueError, match="release_after_s must be"):
        memomalloc.ArenaSettings(release_after_s=seconds)


# --- Outputs


def test_a_steady_service_has_no_page_fault_outputs_included() -> None:
    wrapper = memomalloc.optimize(Chain(depth=2))
    values = torch.randn(1_000_000)
    learn(wrapper, values)
    held = [wrapper(values)]

    def serve() -> None:
        for _ in range(20):
            held[0] = wrapper(values)  # the last answer lives while the next is made

    serve()
    with fully_served(wrapper, runs=20):
        assert minor_faults(serve) < 20  # none of the arena: one output alone has a thousand pages


def test_a_client_that_hoards_outputs_is_served_all_the_same() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    before = wrapper.stats()
    hoard = [wrapper(chain_values(seed)) for seed in range(300)]
    after = wrapper.stats()
    assert after.runs_replayed == before.runs_replayed + 300
    assert after.runs_recorded == before.runs_recorded
    assert after.num_regions == before.num_regions
    assert after.requests_upstream == before.requests_upstream
    for seed, output in enumerate(hoard):
        assert_equal_bits(output, chain_result(chain_values(seed)))
    hoard.clear()
    del output
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))
