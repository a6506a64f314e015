"""Calls of optimized models and functions that are armed run no Python of ours, and do what its code says."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.runtime.calls import dispatch
from memomalloc.runtime.calls.signatures import describe
from memomalloc.runtime.models.optimized_function import OptimizedFunction
from memomalloc.runtime.models.optimized_module import MODULE_CALLS

OURS = str(Path(memomalloc.__file__).parent)
Dressed = Callable[[torch.nn.Module], Any]


class Model(torch.nn.Module):
    """Says what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.came: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.came.append((args, kwargs))
        return self.layer(torch.ones(2, 4))


def twin(model: torch.nn.Module) -> Any:
    return memomalloc.optimize(model, keep_plans=True)


def in_place(model: torch.nn.Module) -> Any:
    return memomalloc.optimize(model, keep_plans=True, inplace=True)


def function(model: torch.nn.Module) -> Any:
    return memomalloc.optimize(lambda *args, **kwargs: model(*args, **kwargs), keep_plans=True)


each_way = pytest.mark.parametrize("dress", [twin, in_place, function])


def armed(dress: Dressed, *args: Any, **kwargs: Any) -> tuple[Model, Any]:
    model = Model().eval()
    planned = dress(model)
    for _ in range(12):
        planned(*args, **kwargs)
    replayed = memomalloc.stats(planned).runs_replayed
    planned(*args, **kwargs)
    assert memomalloc.stats(planned).runs_replayed == replayed + 1
    model.came.clear()
    return model, planned


def frames_of_ours(call: Callable[[], Any]) -> list[str]:
    seen: list[str] = []

    def profile(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            seen.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("name", ["twin", "in_place", "function"])
@in_child_process()  # torch looks at all frames of a process from when a torch.compile in it raised
def test_an_armed_call_runs_no_python_of_ours(name: str) -> None:
    _, planned = armed(globals()[name], torch.ones(3), scale=2)
    value = torch.ones(3)
    assert frames_of_ours(lambda: planned(value, scale=2)) == []


@each_way
@pytest.mark.parametrize("num_args", [0, 1, 20])
@pytest.mark.parametrize("names", [(), ("scale",), ("model", "args", "kwargs")])
def test_arguments_arrive_as_they_were_given(dress: Dressed, num_args: int, names: tuple[str, ...]) -> None:
    args = [torch.full((2,), float(i)) for i in range(num_args)]
    kwargs = {name: torch.full((3,), float(i)) for i, name in enumerate(names)}
    model, planned = armed(dress, *args, **kwargs)
    planned(*args, **kwargs)
    ((got_args, got_kwargs),) = model.came
    assert [id(arg) for arg in got_args] == [id(arg) for arg in args]
    assert {name: id(value) for name, value in got_kwargs.items()} == {name: id(kwargs[name]) for name in names}
    assert list(got_kwargs) == list(names)


@each_way
def test_no_reference_is_lost_or_kept(dress: Dressed) -> None:
    value, name = torch.ones(5), "a_name_of_its_own"
    model, planned = armed(dress, value, **{name: value})

    def counts_after_calls(num_calls: int) -> list[int]:
        for _ in range(num_calls):
            planned(value, **{name: value})
        model.came.clear()
        gc.collect()
        return [sys.getrefcount(thing) for thing in (value, name, planned, type(planned), None)]

    # What other tests left behind may go meanwhile, but not each time as much as 500 calls would lose or keep.
    rounds = [counts_after_calls(500) for _ in range(5)]
    changes = [[abs(b - a) for a, b in zip(one, other, strict=True)] for one, other in itertools.pairwise(rounds)]
    *of_ours, of_none = (min(changes_of_one) for changes_of_one in zip(*changes, strict=True))
    assert of_ours == [0, 0, 0, 0]
    assert of_none < 500


@each_way
def test_what_the_model_raises_arrives(dress: Dressed) -> None:
    model, planned = armed(dress, torch.ones(2))

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("as the model has it")

    model.forward = fails  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="as the model has it"):
        planned(torch.ones(2))


@pytest.mark.parametrize("dress", [twin, in_place])
def test_a_class_whose_call_is_replaced_for_a_while(dress: Dressed, monkeypatch: pytest.MonkeyPatch) -> None:
    _, planned = armed(dress, torch.ones(2))
    came: list[Any] = []
    original = torch.nn.Module.__call__

    def noted(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        came.append(type(self).__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", noted)
    planned(torch.ones(2))
    assert came == ["Model", "Linear"]


@pytest.mark.parametrize("dress", [twin, in_place])
def test_the_training_mode_is_that_of_the_moment(dress: Dressed) -> None:
    _, planned = armed(dress, torch.ones(2))
    replayed = memomalloc.stats(planned).runs_replayed
    planned.train()
    planned(torch.ones(2))
    assert memomalloc.stats(planned).runs_replayed == replayed
    planned.eval()
    planned(torch.ones(2))
    assert memomalloc.stats(planned).runs_replayed == replayed + 1


def test_a_module_of_an_in_place_class_that_is_not_its_owner() -> None:
    model, planned = armed(in_place, torch.ones(2))
    replica = object.__new__(type(planned))
    replica.__dict__.update(planned.__dict__)
    replayed = memomalloc.stats(planned).runs_replayed
    replica(torch.ones(2))
    assert memomalloc.stats(planned).runs_replayed == replayed
    assert len(model.came) == 1


def test_a_compiler_sees_the_code() -> None:
    _, planned = armed(twin, torch.ones(2))
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(graph.code)
        return graph

    compiled = torch.compile(planned, backend=backend, fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), planned(torch.ones(2)))
    assert len(seen) == 1
    assert "linear" in seen[0]


def test_the_code_does_the_same() -> None:
    """Python may run it at any time."""
    model, planned = armed(twin, torch.ones(2))
    replayed = memomalloc.stats(planned).runs_replayed
    type(MODULE_CALLS[0])(MODULE_CALLS[0].__code__, MODULE_CALLS[0].__globals__)(planned, torch.ones(2))
    assert memomalloc.stats(planned).runs_replayed == replayed + 1
    _, planned = armed(function, torch.ones(2))
    replayed = planned.stats().runs_replayed
    code = OptimizedFunction.__call__.__code__
    type(MODULE_CALLS[0])(code, OptimizedFunction.__call__.__globals__)(planned, torch.ones(2))
    assert planned.stats().runs_replayed == replayed + 1
    assert len(model.came) == 1


# --- Calls that go straight to the model are not looked up for ever -------------------------------------------------

PASSED = torch.empty(2, device="meta")  # on no CPU: such calls are never planned


def passing(dress: Dressed, num_calls: int) -> tuple[Model, Any]:
    model = Model().eval()
    planned = dress(model)
    for _ in range(num_calls):
        planned(PASSED)
    return model, planned


@each_way
@pytest.mark.parametrize("num_calls", [1, 60, 64, 65, 80, 81, 500])
def test_calls_that_are_not_looked_up_are_made_and_counted(dress: Dressed, num_calls: int) -> None:
    model, planned = passing(dress, num_calls)
    assert memomalloc.stats(planned).runs_unplanned == {"device": num_calls}
    assert len(model.came) == num_calls


@each_way
def test_few_of_them_are_looked_up(dress: Dressed, monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[Any] = []

    def noted(value: Any, *rest: Any) -> Any:
        described.append(value)
        return describe(value, *rest)

    monkeypatch.setattr(dispatch, "describe", noted)
    model, planned = passing(dress, 0)
    unusual = range(3)  # of a kind that Python describes
    for _ in range(1000):
        planned(PASSED, unusual)
    assert len(model.came) == 1000
    assert 0 < len(described) < 400


@each_way
def test_calls_of_another_kind_are_noticed(dress: Dressed) -> None:
    _, planned = passing(dress, 500)
    value = torch.ones(3)
    for _ in range(40):
        planned(value)
    replayed = memomalloc.stats(planned).runs_replayed
    assert replayed >= 20
    # What is armed is replayed each time, whatever came before.
    for _ in range(300):
        planned(PASSED)
    planned(value)
    assert memomalloc.stats(planned).runs_replayed == replayed + 1


@each_way
def test_calls_of_another_kind_that_come_now_and_then_are_learned(dress: Dressed) -> None:
    _, planned = passing(dress, 500)
    for i in range(2000):
        planned(torch.ones(3) if i % 5 == 0 else PASSED)
    assert memomalloc.stats(planned).runs_replayed > 100


@each_way
def test_it_can_be_disabled_while_calls_are_not_looked_up(dress: Dressed) -> None:
    _, planned = passing(dress, 500)
    before = memomalloc.stats(planned).runs_unplanned["device"]
    memomalloc.disable()
    try:
        for _ in range(40):
            planned(PASSED)
    finally:
        memomalloc.enable()
    assert memomalloc.stats(planned).runs_unplanned == {"device": before, "disabled": 40}


@each_way
def test_what_raises_is_raised_while_calls_are_not_looked_up(dress: Dressed) -> None:
    model, planned = passing(dress, 500)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise KeyError(len(args), *kwargs)

    model.forward = fails  # type: ignore[method-assign]
    for _ in range(40):
        with pytest.raises(KeyError, match=r"1, 'name'"):
            planned(PASSED, name=1)
