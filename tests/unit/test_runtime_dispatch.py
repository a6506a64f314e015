"""The native way of a call: what it looks up, what it counts, and what it does not disturb."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch

import memomalloc
from memomalloc.runtime import extension
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.faults import is_of_the_program
from memomalloc.runtime.models.outside_calls import OutsideCall, replace_call
from memomalloc.runtime.models.planned_model import MethodOf
from models import Chain, chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn


class _Thoughts:
    """How often Python had to think about a call of a wrapper."""

    def __init__(self, wrapper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num = 0
        planned = wrapper._planned
        think = planned._think

        def count(call: Any) -> Any:
            self.num += 1
            return think(call)

        monkeypatch.setattr(planned, "_think", count)


def _bag(dense: torch.Tensor, indices: list[torch.Tensor], *, scale: float = 1.0) -> torch.Tensor:
    total = dense
    for index in indices:
        total = total + index.sum() * scale
    return total.sin()


def _inputs(seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(50, 400, (33,), generator=generator).tolist()
    return torch.zeros(counts[0], 8), [torch.zeros(count) for count in counts[1:]]


def test_python_does_not_think_about_calls_that_are_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    thoughts = _Thoughts(wrapper, monkeypatch)
    with fully_served(wrapper, runs=20):
        for seed in range(20):
            assert_equal_bits(wrapper(chain_values(seed)), chain_result(chain_values(seed)))
    assert thoughts.num == 0


@pytest.mark.parametrize("shapes", ["merged", "auto", "bucketed"])
def test_python_does_not_think_about_each_new_size(shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = memomalloc.optimize(chain_result, shapes=shapes)
    sizes = [96, *range(70, 96)]  # of one bucket
    for size in sizes:
        wrapper(chain_values(0, size))
    thoughts = _Thoughts(wrapper, monkeypatch)
    for size in sizes:
        assert_equal_bits(wrapper(chain_values(1, size)), chain_result(chain_values(1, size)))
    assert thoughts.num <= 3  # a plan may grow yet
    assert wrapper.stats().runs_replayed >= len(sizes)


def test_what_is_remembered_of_calls_does_not_grow_with_them() -> None:
    wrapper = memomalloc.optimize(_bag, shapes="auto")
    with torch.inference_mode():
        for seed in range(100):
            wrapper(*_inputs(seed))
        dispatcher = wrapper._planned._dispatcher
        before = dispatcher.num_armed, dispatcher.remembered_bytes
        for seed in range(100, 600):
            wrapper(*_inputs(seed), scale=float(seed))
            wrapper(*_inputs(seed))
    # One more family: calls by name.
    assert dispatcher.num_armed <= before[0] + 1
    assert dispatcher.remembered_bytes < 2 * before[1] + 4096
    assert len(wrapper._planned._groups) <= 2
    assert wrapper.stats().served_share > 0.95


def test_calls_that_cannot_be_planned_go_straight_to_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = memomalloc.optimize(lambda values: values * 2)
    values = torch.ones(3, device="meta")
    wrapper(values)
    thoughts = _Thoughts(wrapper, monkeypatch)
    for _ in range(5):
        assert wrapper(values).device.type == "meta"
    assert thoughts.num == 0
    assert wrapper.stats().runs_unplanned == {"device": 6}


def test_what_is_counted_natively_is_counted_for_the_process_too() -> None:
    inner = memomalloc.optimize(Chain())
    outer = memomalloc.optimize(lambda values: inner(values) + 1)
    learn(inner, chain_values(0))
    learn(outer, chain_values(0))
    before = inner.stats().runs_unplanned.get("nested", 0), memomalloc.stats().runs_unplanned.get("nested", 0)
    for _ in range(3):
        outer(chain_values(0))
    memomalloc.disable()
    outer(chain_values(0))
    memomalloc.enable()
    after = inner.stats().runs_unplanned["nested"], memomalloc.stats().runs_unplanned["nested"]
    assert after == (before[0] + 3, before[1] + 3)
    assert outer.stats().runs_unplanned["disabled"] == 1


def test_a_group_that_was_not_used_for_longest_makes_room() -> None:
    wrapper = memomalloc.optimize(chain_result, max_plans=2, warm_up_calls=0)
    first, second = chain_values(0, 100), chain_values(0, 200)
    learn(wrapper, first)
    learn(wrapper, second)
    wrapper(first)  # natively: it is not the oldest any more
    learn(wrapper, chain_values(0, 300))
    with fully_served(wrapper, runs=1):
        wrapper(first)


def test_plans_are_gone_with_their_wrapper_without_a_collection() -> None:
    gc.collect()
    gc.disable()
    try:
        wrapper = memomalloc.optimize(Chain())
        learn(wrapper, chain_values(0))
        planned = weakref.ref(wrapper._planned)
        dispatcher = weakref.ref(wrapper._planned._dispatcher)
        del wrapper
        assert planned() is None
        assert dispatcher() is None
    finally:
        gc.enable()


def test_a_function_that_holds_its_own_wrapper_is_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.call = memomalloc.optimize(self.run)

        def run(self, values: torch.Tensor) -> torch.Tensor:
            return chain_result(values)

    holder = Holder()
    learn(holder.call, chain_values(0))
    died = weakref.ref(holder)
    del holder
    gc.collect()
    assert died() is None


def test_an_error_that_its_own_model_keeps_is_collected_with_it() -> None:
    class Failing:
        def run(self, values: torch.Tensor) -> None:
            self.values = values
            raise RuntimeError("kept")

    failing = Failing()
    call = memomalloc.optimize(failing.run)
    for _ in range(6):  # warmed up, recorded, given up
        with pytest.raises(RuntimeError, match="kept") as caught:
            call(chain_values(0))
        failing.error = caught.value  # type: ignore[attr-defined]
    died = weakref.ref(failing)
    del failing, call, caught
    gc.collect()
    assert died() is None


def test_a_wrapper_may_be_dropped_while_it_is_called() -> None:
    holder: list[Any] = []

    def run(values: torch.Tensor) -> torch.Tensor:
        result = chain_result(values)
        if drop:
            holder.clear()
            gc.collect()
        return result + 1

    drop = False
    for learned in (True, False):
        holder.append(memomalloc.optimize(run))
        if learned:
            drop = False
            learn(holder[0], chain_values(0))
        drop = True
        call = holder[0]._planned._dispatch().call
        assert_equal_bits(call((chain_values(1),), {}, None), chain_result(chain_values(1)) + 1)
        assert not holder
        # What calls it is still there, and what learned is not.
        assert_equal_bits(call((chain_values(1),), {}, None), chain_result(chain_values(1)) + 1)


def test_a_model_is_called_from_a_finalizer_in_the_middle_of_its_call() -> None:
    outputs: list[torch.Tensor] = []

    class Finalized:
        def __del__(self) -> None:
            outputs.append(wrapper(chain_values(2), None))

    def run(values: torch.Tensor, other: object) -> torch.Tensor:
        result = chain_result(values)
        del other
        if other_of_call:
            other_of_call.clear()
        return result

    other_of_call: list[Any] = []
    wrapper = memomalloc.optimize(run)
    for _ in range(8):
        other_of_call.append(Finalized())
        assert_equal_bits(wrapper(chain_values(1), None), chain_result(chain_values(1)))
    assert len(outputs) == 8
    for output in outputs:
        assert_equal_bits(output, chain_result(chain_values(2)))


def test_an_argument_that_changes_the_lists_it_lies_in() -> None:
    class Meddling:
        def __hash__(self) -> int:
            values.append(torch.ones(1))
            return 1

        def __eq__(self, other: object) -> bool:
            values.clear()
            return True

    values: list[Any] = []
    wrapper = memomalloc.optimize(lambda values: torch.ones(100).sin())
    for _ in range(10):
        values[:] = [torch.ones(2), Meddling(), [Meddling()], torch.ones(3)]
        assert_equal_bits(wrapper(values), torch.ones(100).sin())


def test_a_mode_of_the_program_does_not_see_how_arguments_are_read() -> None:
    class Mode(torch.overrides.TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    wrapper = memomalloc.optimize(chain_result)
    learn(wrapper, chain_values(0))
    values = chain_values(1)
    with Mode() as plain:
        chain_result(values)
    with Mode() as mode, fully_served(wrapper, runs=1):
        wrapper(values)
    assert mode.seen == plain.seen


def test_a_subclass_of_tensor_is_described_by_python() -> None:
    class Sub(torch.Tensor):
        pass

    wrapper = memomalloc.optimize(chain_result)
    values = chain_values(0)
    learn(wrapper, values)
    learn(wrapper, values.as_subclass(Sub))
    assert len(wrapper.plans) == 2
    with fully_served(wrapper, runs=2):
        assert type(wrapper(values.as_subclass(Sub))) is Sub
        assert type(wrapper(values)) is torch.Tensor


def test_under_a_transform_calls_are_described() -> None:
    wrapper = memomalloc.optimize(lambda values: values.sin() * 2)
    values = torch.randn(4, 1000)
    for _ in range(6):
        result = torch.vmap(wrapper)(values)
    assert_equal_bits(result, values.sin() * 2)


def test_a_tracer_sees_the_function(recwarn: pytest.WarningsRecorder) -> None:
    wrapper = memomalloc.optimize(chain_result)
    learn(wrapper, chain_values(0))
    before = wrapper.stats()
    traced = torch.jit.trace(lambda values: wrapper._planned._dispatch().call((values,), {}, None), chain_values(0))
    assert_equal_bits(traced(chain_values(1)), chain_result(chain_values(1)))
    assert wrapper.stats().runs_replayed == before.runs_replayed


def test_many_threads_call_at_once_while_one_forgets() -> None:
    wrapper = memomalloc.optimize(chain_result, shapes="merged", warm_up_calls=0)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(seed: int) -> None:
        try:
            for i in range(150):
                values = chain_values(seed, 50 + (i * 7 + seed) % 90)
                assert_equal_bits(wrapper(values), chain_result(values))
        except BaseException as error:
            failures.append(error)

    def forget() -> None:
        while not stop.wait(0.01):
            wrapper.forget()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    other = threading.Thread(target=forget)
    for thread in (*threads, other):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    other.join()
    assert not failures
    assert wrapper.stats().num_arenas_in_use == 0


def test_a_module_may_hold_what_calls_it() -> None:
    """As ``torch.nn.Module.compile`` does it: no cycle; a copy is without it; a compiler sees the module."""
    module = Chain().eval()
    method = MethodOf(module, torch.nn.Module._call_impl)
    assert method.__self__ is module
    planned = PlannedFunction(method)
    dispatcher = planned._dispatch()
    assert dispatcher.owner is planned
    replace_call(module, OutsideCall(module, planned))
    for _ in range(8):
        assert_equal_bits(module(chain_values(0)), chain_result(chain_values(0)))
    assert planned.stats().runs_replayed > 0
    module.train()
    before = planned.stats().runs_replayed
    module(chain_values(0))
    assert planned.stats().runs_replayed == before, "another training mode is another kind of call"
    assert copy.deepcopy(module)._compiled_call_impl is None
    assert pickle.loads(pickle.dumps(dispatcher)) is None
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert_equal_bits(compiled(chain_values(1)), chain_result(chain_values(1)))
    died = weakref.ref(module)
    del module, compiled
    torch._dynamo.reset()
    gc.collect()
    assert died() is None
    with pytest.raises(ReferenceError):
        method(chain_values(0))
    del planned
    assert dispatcher.owner is None


def test_uses_are_numbered() -> None:
    native = extension.load()
    assert native.next_use() < native.next_use()


def test_an_error_of_no_handler_is_not_a_handlers() -> None:
    with pytest.raises(ValueError, match="ours") as caught:
        raise ValueError("ours")
    assert not is_of_the_program(caught.value)
