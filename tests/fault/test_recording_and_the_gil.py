"""A recorded allocation waits for nothing that another thread may have: least of all for the interpreter's lock."""

from __future__ import annotations

import cProfile
import ctypes
import gc
import pstats
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process, run_python
from serving import join_until_gone


def _scripted_chain() -> Any:
    def chain(values: torch.Tensor, steps: int) -> torch.Tensor:
        for _ in range(steps):
            values = torch.cos(torch.sin(values) * 2.0)
        return values

    return torch.jit.script(chain)


@pytest.fixture(scope="module")
def count_gil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("count_gil") / "count_gil.so"
    source = Path(__file__).with_name("count_gil.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def test_recorded_allocations_and_frees_do_not_take_the_gil(count_gil: Path) -> None:
    child = run_python(
        f"""
        import ctypes, warnings
        warnings.simplefilter("ignore")
        count = ctypes.PyDLL({str(count_gil)!r}).count_gil_taken
        import torch, memomalloc
        from test_recording_and_the_gil import _scripted_chain
        torch.set_num_threads(1)
        chain, x, net = _scripted_chain(), torch.ones(50), torch.nn.Linear(50, 50)

        def eager():
            return torch.relu(net(x) + 1).sum()

        def scripted():
            return chain(x, 300)

        def taken(call):
            before = count()
            call()
            return count() - before

        for call in (eager, scripted):
            for _ in range(30):
                call()
            plain = taken(call)
            with memomalloc.record() as recording:
                recorded = taken(call)
            assert len(recording.trace) >= (900 if call is scripted else 3)
            print(call.__name__, plain, recorded)
        """,
        env={"LD_PRELOAD": str(count_gil)},
        paths=(Path(__file__).parent,),
    )
    assert child.returncode == 0, child.stderr
    counts = [line.split()[1:] for line in child.stdout.splitlines()]
    if all(plain == "0" for plain, _ in counts):
        pytest.skip("this Python has its functions in itself, where they cannot be interposed")
    assert [recorded for _, recorded in counts] == [plain for plain, _ in counts], child.stdout


@in_child_process()
def test_a_recorded_operator_goes_on_while_another_thread_holds_the_gil() -> None:
    import warnings

    warnings.simplefilter("ignore")
    values, done = torch.ones(10), torch.zeros(1)

    def chain_and_say_so(values: torch.Tensor, done: torch.Tensor) -> None:
        values = torch.sin(values)  # torch itself wants the lock to let go of a tensor that Python knows
        done.fill_(0.5)
        for _ in range(20_000):
            values = torch.sin(values)
        done.fill_(1.0)

    script = torch.jit.script(chain_and_say_so)
    for _ in range(3):
        script(values, done)
    done.zero_()
    flag = ctypes.c_float.from_address(done.data_ptr())

    def record() -> None:
        with memomalloc.record():
            script(values, done)

    thread = threading.Thread(target=record)
    thread.start()
    while flag.value == 0.0:
        time.sleep(1e-4)
    # A function of C that is called with the lock held keeps it.
    ctypes.PyDLL(None).usleep(5_000_000)
    assert flag.value == 1.0
    thread.join()


@pytest.mark.parametrize("setter", ["manual_seed", "get_rng_state"])
@in_child_process()
def test_an_operator_that_allocates_under_a_lock_of_torch(setter: str) -> None:
    probabilities = torch.rand(64, 50)
    stop = threading.Event()
    touch: Callable[[], Any] = (lambda: torch.manual_seed(0)) if setter == "manual_seed" else torch.get_rng_state

    def other() -> None:
        while not stop.is_set():
            touch()

    def sample() -> torch.Tensor:
        return torch.multinomial(probabilities, 8, replacement=True)

    thread = threading.Thread(target=other)
    thread.start()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for calls in (False, True):
            with memomalloc.record(calls=calls):
                sample()
        optimized = memomalloc.optimize(sample)
        for _ in range(6):
            optimized()
    stop.set()
    thread.join()


# --- What is closed is over ----------------------------------------------------------------------------------------


def test_a_closed_recording_listens_to_nothing() -> None:
    with memomalloc.record() as recording:
        torch.ones(10) + 1
    assert sys.getprofile() is None
    contexts = recording._native.contexts()
    torch.tanh(torch.sigmoid(torch.ones(10)))
    assert recording._native.contexts() == contexts
    with memomalloc.record() as another:
        torch.erf(torch.ones(10))
    assert recording._native.contexts() == contexts
    assert {origin.operator for origin in another.trace.origins} >= {"aten::erf"}


def test_one_that_was_closed_elsewhere_listens_to_nothing_either() -> None:
    def recording() -> Iterator[Any]:
        with memomalloc.record() as opened:
            torch.ones(10) + 1
            yield opened

    generator = recording()
    opened = next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    contexts = opened._native.contexts()
    for _ in range(3):
        torch.tanh(torch.sigmoid(torch.ones(10)))
    assert opened._native.contexts() == contexts
    with memomalloc.record() as another:  # this thread listens again
        torch.erf(torch.ones(10))
    assert {origin.operator for origin in another.trace.origins} >= {"aten::erf"}
    assert sys.getprofile() is None


def test_a_recording_is_read_on_one_thread_while_others_record_on() -> None:
    end = time.monotonic() + 2
    with memomalloc.record() as outer:
        with memomalloc.record() as inner:
            torch.ones(10) + 1
        expected = [context[0] for context in inner._native.contexts()]
        wrong = []

        def read() -> None:
            while time.monotonic() < end:
                seen = [context[0] for context in inner._native.contexts()][: len(expected)]
                if seen != expected:
                    wrong.append(seen)

        reader = threading.Thread(target=read)
        reader.start()
        while time.monotonic() < end:
            for name in ("sin", "cos", "tan", "exp", "erf", "log1p", "sqrt", "neg", "abs", "sign"):
                getattr(torch, name)(torch.ones(3))
        reader.join()
    assert not wrong
    assert outer.trace.num_buffers > 10


def test_one_of_a_thread_that_is_gone_ends_no_other_although_the_thread_has_its_number() -> None:
    kept: list[memomalloc.Recording] = []
    operators: list[str] = []

    def record_and_keep() -> None:
        with memomalloc.record() as recording:
            torch.ones(10) + 1
        kept.append(recording)

    def record_and_drop() -> None:
        with memomalloc.record() as recording:
            values = torch.ones(10)
            kept.clear()
            gc.collect()
            torch.sigmoid(torch.tanh(values))
        operators.extend(origin.operator for origin in recording.trace.origins if origin is not None)

    for target in (record_and_keep, record_and_drop):
        thread = threading.Thread(target=target)
        thread.start()
        join_until_gone(thread)
    assert operators == ["aten::ones", "aten::tanh", "aten::sigmoid"]


def test_a_thread_whose_recording_is_closed_elsewhere_exits() -> None:
    with memomalloc.record() as recorded:
        _ = torch.ones(100) + 1
    plan = memomalloc.plan(recorded.trace)
    for _ in range(3):
        generators: list[Any] = []
        ready, go = threading.Event(), threading.Event()

        def begin(generators: list[Any] = generators, ready: Any = ready, go: Any = go) -> None:
            with memomalloc.replay(plan):
                pass

            def recording() -> Iterator[None]:
                with memomalloc.record():
                    torch.ones(5) + 1
                    yield

            generators.append(recording())
            next(generators[0])
            ready.set()
            go.wait()

        thread = threading.Thread(target=begin)
        thread.start()
        ready.wait()
        generators.clear()
        gc.collect()
        go.set()
        join_until_gone(thread)
    with memomalloc.record() as again:
        torch.ones(5) + 1
    assert again.trace.num_buffers >= 2


# --- A profiler of the program -------------------------------------------------------------------------------------


def test_a_profile_function_of_the_program_goes_on_being_called() -> None:
    seen: list[str] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        seen.append(f"{event} {frame.f_code.co_name}")

    def inside() -> torch.Tensor:
        return torch.ones(10) + 1

    sys.setprofile(profile)
    try:
        with memomalloc.record() as recording:
            assert sys.getprofile() is profile
            inside()
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert {"call inside", "c_call inside", "return inside"} <= set(seen)
    assert {origin.source.function for origin in recording.trace.origins if origin and origin.source} == {
        "test_a_profile_function_of_the_program_goes_on_being_called.<locals>.inside"
    }


def test_a_profiler_that_begins_in_a_recording_has_its_profile_and_the_lines_are_not_known() -> None:
    profiler = cProfile.Profile()

    def profiled() -> torch.Tensor:
        return torch.tanh(torch.ones(10))

    with memomalloc.record() as recording:
        torch.ones(10)
        profiler.enable()
        profiled()
        profiler.disable()
    functions = {name for _, _, name in pstats.Stats(profiler).stats}
    assert "profiled" in functions
    origins = [origin for origin in recording.trace.origins if origin is not None]
    assert [origin.operator for origin in origins] == ["aten::ones", "aten::ones", "aten::tanh"]
    assert origins[0].source is not None
    if sys.version_info < (3, 12):  # from then on cProfile has a way of its own
        assert origins[1].source is None
    assert sys.getprofile() is None


def test_frames_that_end_by_an_exception_or_go_on_later_are_told_apart() -> None:
    def fails() -> None:
        torch.sin(torch.ones(10))
        raise ValueError

    def counts() -> Iterator[torch.Tensor]:
        for _ in range(3):
            yield torch.cos(torch.ones(10))

    with memomalloc.record() as recording:
        generator = counts()
        next(generator)
        try:
            fails()
        except ValueError:
            torch.exp(torch.ones(10))
        next(generator)
        torch.erf(torch.ones(10))
    functions = {
        origin.operator: origin.source.function.rpartition(".")[2]
        for origin in recording.trace.origins
        if origin is not None and origin.source is not None
    }
    here = "test_frames_that_end_by_an_exception_or_go_on_later_are_told_apart"
    assert functions["aten::sin"] == "fails"
    assert functions["aten::cos"] == "counts"
    assert functions["aten::exp"] == functions["aten::erf"] == here
