"""Modules that are optimized in place remain modules: scripted, copied, pickled, dropped."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process
from serving import assert_equal_bits, fully_served, learn


class Doubling(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((64,), 2.0), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.weight + 1


class CopiedByHand(Doubling):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiedByHand:
        made = CopiedByHand.__new__(CopiedByHand)
        memo[id(self)] = made
        for name, value in self.__dict__.items():
            object.__setattr__(made, name, copy.deepcopy(value, memo))
        return made


class WithStateOfItsOwn(Doubling):
    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


VALUES = torch.arange(64.0)


def optimized(kind: type[Doubling] = Doubling) -> Doubling:
    module = memomalloc.optimize(kind().eval(), inplace=True)
    for _ in range(6):
        module(VALUES)
    assert memomalloc.stats(module).runs_replayed > 0
    return module


def test_it_can_be_scripted() -> None:
    assert_equal_bits(torch.jit.script(optimized())(VALUES), VALUES * 2 + 1)


@pytest.mark.parametrize("kind", [Doubling, CopiedByHand, WithStateOfItsOwn])
def test_copies_are_modules_of_their_own(kind: type[Doubling]) -> None:
    module = optimized(kind)
    for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        made.weight.data.fill_(3.0)
        assert_equal_bits(made(VALUES), VALUES * 3 + 1)
    assert_equal_bits(module(VALUES), VALUES * 2 + 1)


def test_a_module_that_is_dropped_is_gone_at_once() -> None:
    gc.disable()
    try:
        module = optimized()
        gone = weakref.ref(module)
        del module
        assert gone() is None
    finally:
        gc.enable()


@in_child_process(env={"PYTHONWARNINGS": "ignore::FutureWarning"})  # torch.jit is deprecated
def test_so_it_is_in_programs_that_are_planned_as_they_are() -> None:
    from test_runtime_in_place import VALUES, Doubling

    import memomalloc.auto

    module = Doubling().eval()
    for _ in range(8):
        module(VALUES)
    assert memomalloc.stats(module).runs_replayed > 0
    assert_equal_bits(torch.jit.script(module)(VALUES), VALUES * 2 + 1)
    # As some libraries make replicas: an object of the class that shares the attributes.
    replica = Doubling.__new__(Doubling)
    replica.__dict__.update(module.__dict__)
    replica._parameters = {"weight": torch.zeros(64)}
    for _ in range(8):
        assert_equal_bits(replica(VALUES), VALUES * 0 + 1)
    gc.disable()
    gone = weakref.ref(module)
    del module
    assert gone() is None


@in_child_process()
def test_a_module_that_is_made_for_one_call_costs_no_plan() -> None:
    import memomalloc.auto

    for _ in range(20):
        made = torch.nn.Softmax(dim=-1)
        made(VALUES)
        assert made._compiled_call_impl is None
    assert memomalloc.stats().num_plans == 0


class Unequal:
    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    def __hash__(self) -> int:
        return 1


def _cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize("make", [Unequal, _cycle], ids=["unequal", "cycle"])
@pytest.mark.parametrize("shapes", ["exact", "auto"])
def test_a_call_that_cannot_be_described_runs_unplanned(make: Any, shapes: str) -> None:
    wrapper = memomalloc.optimize(lambda values, other: values + 1, shapes=shapes)
    for _ in range(8):
        assert_equal_bits(wrapper(VALUES, make()), VALUES + 1)
    assert wrapper.stats().runs_unplanned["unplannable"] >= 7
    learn(wrapper, VALUES, None)


def test_a_module_that_names_no_modules_is_planned() -> None:
    class Nameless(Doubling):
        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            return iter(())

    wrapper = memomalloc.optimize(Nameless().eval())
    learn(wrapper, VALUES)
    with fully_served(wrapper, runs=1):
        wrapper(VALUES)


def test_arguments_that_are_new_in_each_call_are_not_kept() -> None:
    class Request:
        def answer(self) -> None: ...

    wrapper = memomalloc.optimize(lambda values, then: values + 1, shapes="auto", max_plans=8)
    requests = []
    for _ in range(50):
        request = Request()
        wrapper(VALUES, request.answer)
        requests.append(weakref.ref(request))
    del request
    assert sum(request() is not None for request in requests) == 0
    assert wrapper.stats().runs_replayed > 40  # and they share a plan


def test_calls_of_many_kinds_do_not_push_out_the_plan_that_serves() -> None:
    wrapper = memomalloc.optimize(lambda values, name: values + 1, shapes="exact", max_plans=8)
    learn(wrapper, VALUES, "served")
    for number in range(100):
        wrapper(VALUES, f"once {number}")
    with fully_served(wrapper, runs=1):
        wrapper(VALUES, "served")
    assert len(wrapper._planned._exact_of_family) == 0


def test_time_steps_share_a_plan() -> None:
    wrapper = memomalloc.optimize(lambda values, time: values * time, shapes="auto")
    for number in range(40):
        assert_equal_bits(wrapper(VALUES, number / 7), VALUES * (number / 7))
    assert wrapper.stats().runs_replayed > 20


def test_it_decorates_functions_and_methods() -> None:
    @memomalloc.optimize(shapes="auto")
    def double(values: torch.Tensor) -> torch.Tensor:
        return values * 2

    class Model:
        @memomalloc.optimize
        def scale(self, values: torch.Tensor, by: int) -> torch.Tensor:
            return values * by

    model = Model()
    for _ in range(8):
        assert_equal_bits(double(VALUES), VALUES * 2)
        assert_equal_bits(model.scale(VALUES, 3), VALUES * 3)
    assert double.stats().runs_replayed > 0
    assert Model.scale.stats().runs_replayed > 0


@pytest.mark.parametrize("setting", [{"wait_s": -1}, {"max_arenas": -1}, {"release_after_s": 0}])
def test_settings_out_of_range_are_refused_at_once(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        memomalloc.ArenaSettings(**setting)
