"""The wrapper is a drop-in: whatever is done to it is done to the model, and only calls are planned."""

from __future__ import annotations

import copy
import functools
import gc
import operator
import pickle
import sys
from typing import Any

import pytest
import torch

import memomalloc
from models import Chain, ConvNet, chain_values, conv_net, images
from serving import assert_equal_bits, fully_served, learn


def _layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1000, 20), torch.nn.ReLU()).eval()


class Scaled:
    """A callable object with attributes, some of them named as the wrapper's own."""

    def __init__(self) -> None:
        self.scale = 2.0
        self._planned = "the callable's"

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return torch.sin(values) * self.scale

    def method(self, values: torch.Tensor) -> torch.Tensor:
        return self(values) + 1


def double(values: torch.Tensor, *, factor: float = 2.0) -> torch.Tensor:
    """A function with a docstring."""
    return torch.sin(values) * factor


# --- Modules -------------------------------------------------------------------------------------------------------


def test_the_wrapper_is_a_module_with_the_models_interface() -> None:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    assert isinstance(wrapper, torch.nn.Module)
    assert isinstance(wrapper, memomalloc.OptimizedModule)
    assert wrapper.first is module.first
    assert list(wrapper.state_dict()) == list(module.state_dict())
    assert [name for name, _ in wrapper.named_modules()] == [name for name, _ in module.named_modules()]
    assert all(a is b for a, b in zip(wrapper.parameters(), module.parameters(), strict=True))
    assert dir(wrapper) == dir(module)
    assert repr(wrapper) == repr(module)


def test_attributes_are_set_read_and_deleted_on_the_model() -> None:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    wrapper.note = "set on the wrapper"
    module.other = "set on the model"
    wrapper.head = torch.nn.Linear(32, 3)
    assert (module.note, wrapper.other) == ("set on the wrapper", "set on the model")
    assert module.head.out_features == 3
    assert "head.weight" in module.state_dict()
    del wrapper.note
    assert not hasattr(module, "note")
    with pytest.raises(AttributeError):
        _ = wrapper.note


def test_the_model_keeps_its_state_where_the_one_that_was_given_went_with_a_cycle() -> None:
    model = torch.nn.Linear(4, 4)
    model.listeners = [model.forward]
    names, values = [name for name, _ in model.named_parameters()], torch.ones(1, 4)
    expected = model(values)
    wrapper = memomalloc.optimize(model)
    del model
    gc.collect()
    assert [name for name, _ in wrapper.named_parameters()] == names
    assert_equal_bits(wrapper(values), expected)


def test_loading_a_state_dict_changes_the_results_of_a_plan_that_stays() -> None:
    other = ConvNet().eval()
    wrapper = memomalloc.optimize(conv_net())
    with torch.inference_mode():
        learn(wrapper, images(0))
        wrapper.load_state_dict(other.state_dict())
        with fully_served(wrapper, runs=1):
            output = wrapper(images(1))
        assert_equal_bits(output, other(images(1)))


@pytest.mark.parametrize(
    ("method", "arguments", "forgets"),
    [
        ("eval", (), False),
        ("train", (), False),
        ("to", (torch.float64,), True),
        ("to", ("cpu",), False),
        ("double", (), True),
        ("half", (), True),
        ("bfloat16", (), True),
        ("float", (), False),
        ("cpu", (), False),
        ("requires_grad_", (False,), True),
        ("apply", (lambda module: None,), False),
        ("apply", (lambda module: module.register_buffer("added", torch.zeros(1)),), True),
        ("share_memory", (), False),
    ],
)
def test_methods_that_return_the_model_return_the_wrapper(method: str, arguments: Any, forgets: bool) -> None:
    wrapper = memomalloc.optimize(_layers())
    with torch.inference_mode():
        learn(wrapper, chain_values(0))
    assert len(wrapper.plans) == 1
    assert getattr(wrapper, method)(*arguments) is wrapper
    assert len(wrapper.plans) == (0 if forgets else 1)


def test_a_converted_model_is_learned_anew() -> None:
    wrapper = memomalloc.optimize(_layers())
    with torch.inference_mode():
        learn(wrapper, chain_values(0))
        wrapper.to(torch.float64)
        learn(wrapper, chain_values(0).double())
        with fully_served(wrapper, runs=1):
            output = wrapper(chain_values(1).double())
    assert_equal_bits(output, _layers().double()(chain_values(1).double()).detach())


def test_training_and_evaluation_have_plans_of_their_own() -> None:
    wrapper = memomalloc.optimize(torch.nn.Sequential(torch.nn.Linear(1000, 20), torch.nn.Dropout(0.5)).eval())
    with torch.inference_mode():
        learn(wrapper, chain_values(0))
        learn(wrapper.train(), chain_values(0))
        assert len(wrapper.plans) == 2
        with fully_served(wrapper, runs=2):
            wrapper(chain_values(0))
            wrapper.eval()(chain_values(0))


def test_hooks_run_once_a_call_whether_it_is_learned_or_replayed() -> None:
    calls = []
    wrapper = memomalloc.optimize(_layers())
    wrapper.register_forward_hook(lambda module, inputs, output: calls.append("after"))
    wrapper.register_forward_pre_hook(lambda module, inputs: calls.append("before"))
    with torch.inference_mode():
        for _ in range(8):
            wrapper(chain_values(0))
    assert calls == ["before", "after"] * 8


def test_a_sequential_keeps_its_sequence_interface() -> None:
    module = _layers()
    wrapper = memomalloc.optimize(module)
    assert len(wrapper) == 2
    assert wrapper[0] is module[0]
    assert list(wrapper) == list(module)
    assert module[1] in wrapper
    assert isinstance(wrapper[:1], torch.nn.Sequential)
    assert bool(memomalloc.optimize(torch.nn.Linear(1, 1)))


def test_a_wrapper_can_be_a_submodule() -> None:
    wrapper = memomalloc.optimize(_layers())
    parent = torch.nn.Sequential(wrapper, torch.nn.Linear(20, 5)).eval()
    bare = torch.nn.Sequential(_layers(), torch.nn.Linear(20, 5)).eval()
    bare.load_state_dict(parent.state_dict())
    with torch.inference_mode():
        for _ in range(8):
            parent(chain_values(0))
        with fully_served(wrapper, runs=1):
            output = parent(chain_values(1))
        assert_equal_bits(output, bare(chain_values(1)))
    assert not parent.train().eval()[0].training
    assert next(parent.to(torch.float64).parameters()).dtype is torch.float64


def _shallow(wrapper: Any) -> Any:
    return copy.copy(wrapper)


def _deep(wrapper: Any) -> Any:
    return copy.deepcopy(wrapper)


def _pickled(wrapper: Any) -> Any:
    return pickle.loads(pickle.dumps(wrapper))


@pytest.mark.parametrize("duplicate", [_shallow, _deep])
def test_a_copy_is_optimized_and_starts_with_the_plans_there_are(duplicate: Any) -> None:
    wrapper = memomalloc.optimize(conv_net(), planner="skyline", max_plans=3)
    with torch.inference_mode():
        learn(wrapper, images(0))
        twin = duplicate(wrapper)
        assert isinstance(twin, memomalloc.OptimizedModule)
        for seed in range(3):
            with fully_served(twin, runs=1):
                output = twin(images(seed))
            assert_equal_bits(output, wrapper(images(seed)))
        assert (twin.plans[0].planner, len(wrapper.plans)) == ("skyline", 1)
        assert twin.stats().runs_recorded == 0


def test_a_deep_copy_shares_no_parameters() -> None:
    wrapper = memomalloc.optimize(_layers())
    twin = copy.deepcopy(wrapper)
    assert {id(parameter) for parameter in twin.parameters()}.isdisjoint(map(id, wrapper.parameters()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        torch.jit.script,
        lambda module: torch.export.export(module, (chain_values(0),)),
        torch.fx.symbolic_trace,
    ],
    ids=["script", "export", "fx"],
)
def test_a_deep_copy_of_a_compiled_form_is_a_wrapper(make: Any) -> None:
    wrapper = memomalloc.optimize(make(_layers()))
    twin = copy.deepcopy(wrapper)
    assert isinstance(twin, memomalloc.OptimizedModule)
    assert_equal_bits(twin(chain_values(0)), _layers()(chain_values(0)))


# --- Callables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        double,
        Scaled(),
        Scaled().method,
        functools.partial(double, factor=3.0),
        lambda values: torch.cos(values) + 1,
        torch.relu,
        functools.partial(operator.mul, 2),
    ],
    ids=["function", "object", "bound_method", "partial", "lambda", "builtin", "partial_of_builtin"],
)
def test_any_callable_can_be_optimized(function: Any) -> None:
    wrapper = memomalloc.optimize(function)
    assert isinstance(wrapper, memomalloc.OptimizedFunction)
    learn(wrapper, chain_values(0))
    with fully_served(wrapper, runs=1):
        output = wrapper(chain_values(1))
    assert_equal_bits(output, function(chain_values(1)))


def test_a_wrapped_function_keeps_its_name_and_docstring() -> None:
    wrapper = memomalloc.optimize(double)
    assert (wrapper.__name__, wrapper.__doc__, wrapper.__wrapped__) == (
        "double",
        "A function with a docstring.",
        double,
    )
    assert "double" in repr(wrapper)


def test_a_wrapped_objects_attributes_are_those_it_has_now() -> None:
    scaled = Scaled()
    wrapper = memomalloc.optimize(scaled)
    scaled.scale = 5.0
    assert wrapper.scale == 5.0
    wrapper.scale = 6.0
    assert scaled.scale == 6.0
    assert_equal_bits(wrapper(chain_values(0)), torch.sin(chain_values(0)) * 6.0)
    del wrapper.scale
    assert not hasattr(scaled, "scale")


@pytest.mark.parametrize("duplicate", [_shallow, _deep, _pickled])
def test_a_copy_of_a_wrapped_function_is_a_wrapper(duplicate: Any) -> None:
    twin = duplicate(memomalloc.optimize(double, max_plans=7))
    assert isinstance(twin, memomalloc.OptimizedFunction)
    assert_equal_bits(twin(chain_values(0)), double(chain_values(0)))


# --- Options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "example_inputs",
    [chain_values(0), (chain_values(0),), [chain_values(0)], {"values": chain_values(0)}],
    ids=["tensor", "tuple", "list", "mapping"],
)
def test_with_example_inputs_the_first_call_is_replayed(example_inputs: Any) -> None:
    with torch.inference_mode():
        wrapper = memomalloc.optimize(Chain(), example_inputs=example_inputs)
        assert len(wrapper.plans) == 1
        with fully_served(wrapper, runs=1):
            if isinstance(example_inputs, dict):
                wrapper(values=chain_values(1))
            else:
                wrapper(chain_values(1))


@pytest.mark.parametrize("example_inputs", ["text", 3, object()])
def test_example_inputs_that_are_no_inputs_are_refused(example_inputs: Any) -> None:
    with pytest.raises(TypeError, match="example_inputs is a tensor, a tuple"):
        memomalloc.optimize(Chain(), example_inputs=example_inputs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"planner": "magic"}, memomalloc.errors.UnknownPlannerError, "no planner 'magic'"),
        ({"warm_up_calls": -1}, ValueError, "warm_up_calls must be an integer of at least 0"),
        ({"warm_up_calls": 1.5}, ValueError, "warm_up_calls"),
        ({"max_plans": 0}, ValueError, "max_plans must be an integer of at least 1"),
        ({"time_limit_s": -1.0}, ValueError, "time_limit_s"),
        ({"time_limit_s": float("nan")}, ValueError, "time_limit_s"),
    ],
    ids=str,
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        memomalloc.optimize(Chain(), **options)


@pytest.mark.parametrize("model", [None, 3, "model", chain_values(0)], ids=["none", "number", "text", "tensor"])
def test_what_cannot_be_called_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="takes a module or a callable"):
        memomalloc.optimize(model)


@pytest.mark.parametrize("model", [Chain(), double], ids=["module", "function"])
def test_a_wrapper_is_not_wrapped_again(model: Any) -> None:
    with pytest.raises(TypeError, match="optimized already"):
        memomalloc.optimize(memomalloc.optimize(model))


def test_warm_up_calls_are_counted_and_then_it_learns() -> None:
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=5)
    for _ in range(9):
        wrapper(chain_values(0))
    stats = wrapper.stats()
    assert stats.runs_unplanned == {"warm_up": 5}
    assert (stats.runs_recorded, stats.runs_replayed) == (1, 3)


def test_the_plan_not_used_for_longest_makes_room() -> None:
    wrapper = memomalloc.optimize(Chain(), max_plans=2)
    small, medium, large = (chain_values(0, size) for size in (100, 200, 300))
    learn(wrapper, small)
    learn(wrapper, medium)
    wrapper(small)
    learn(wrapper, large)  # evicts medium
    assert len(wrapper.plans) == 2
    with fully_served(wrapper, runs=2):
        wrapper(small)
        wrapper(large)
    wrapper(medium)
    assert wrapper.stats().runs_unplanned["warm_up"] == 4


def test_forgetting_drops_the_plans_and_keeps_the_history() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    before = wrapper.stats()
    output = wrapper(chain_values(1))
    wrapper.forget()
    assert wrapper.plans == ()
    assert wrapper.stats().runs_replayed == before.runs_replayed + 1
    assert wrapper.stats().mapped_bytes == 0
    learn(wrapper, chain_values(0))
    assert_equal_bits(output, Chain()(chain_values(1)))


def test_a_plan_that_is_forgotten_while_it_is_looked_up_is_learned_anew() -> None:
    """Another thread may forget, evict or relearn between any two lines of a call."""
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    expected = Chain()(chain_values(1))

    def forget_at(line: int) -> Any:
        def trace(frame: Any, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename.endswith("planned_function.py") and event == "line":
                nonlocal num_lines
                num_lines += 1
                if num_lines == line:
                    wrapper.forget()
            return trace

        return trace

    for line in range(1, 16):
        num_lines = 0
        learn(wrapper, chain_values(0))
        sys.settrace(forget_at(line))
        try:
            output = wrapper(chain_values(1))
        finally:
            sys.settrace(None)
        assert_equal_bits(output, expected)
