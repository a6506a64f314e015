"""One contract for every way of running a model: results of the model bit for bit, and every request served."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

import memomalloc
from models import REAL_MODELS, Inputs, RealModel, conv_net, images
from serving import assert_equal_bits, fully_served, learn, lies_in_an_arena, minor_faults

RUNS = 4
GRAD_MODES = (torch.inference_mode, torch.no_grad, torch.enable_grad)


def _trace(module: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    with torch.no_grad():
        return torch.jit.trace(module, inputs, check_trace=False)


def _export(module: torch.nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return torch.export.export(module, inputs)


def _eager(module: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    return module


def _compile(module: torch.nn.Module, inputs: Inputs) -> Any:
    torch.compiler.reset()
    return torch.compile(module)


def _script(module: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    return torch.jit.script(module)


def _freeze(module: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    return torch.jit.freeze(torch.jit.script(module))


def _function(module: torch.nn.Module, inputs: Inputs) -> Callable[..., Any]:
    return lambda *args: module(*args)


CONV_NET = RealModel("conv_net", conv_net, lambda seed: (images(seed),))

WAYS = [
    pytest.param(model, way, id=f"{model}-{way.__name__.strip('_')}")
    for way in (_eager, _trace, _export)
    for model in REAL_MODELS
]
WAYS += [pytest.param(CONV_NET, way, id=f"conv_net-{way.__name__.strip('_')}") for way in (_script, _freeze, _function)]
WAYS += [pytest.param(CONV_NET, _compile, id="conv_net-compile", marks=pytest.mark.slow)]
WAYS += [pytest.param(REAL_MODELS[4], _compile, id=f"{REAL_MODELS[4]}-compile", marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and transformers asserts while it is traced
@pytest.mark.parametrize("grad_mode", GRAD_MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize(("model", "way"), WAYS)
def test_results_are_the_models_and_every_request_is_served(
    model: RealModel,
    way: Callable[[torch.nn.Module, Inputs], Any],
    grad_mode: Callable[[], AbstractContextManager[Any]],
) -> None:
    run = way(model.build(), model.inputs(0))
    reference = run.module() if isinstance(run, torch.export.ExportedProgram) else run
    wrapper = memomalloc.optimize(run)
    with grad_mode():
        # Made before, so that nothing but the model allocates between two runs of the wrapper.
        inputs = [model.inputs(seed) for seed in range(1, RUNS + 1)]
        for _ in range(3):  # a compiler or oneDNN may change its mind in the first calls
            reference(*inputs[0])
        expected = [reference(*values) for values in inputs]
        learn(wrapper, *inputs[0])
        for values, result in zip(inputs, expected, strict=True):
            with fully_served(wrapper, runs=1):
                output = wrapper(*values)
                assert lies_in_an_arena(output)
            assert_equal_bits(output, result)
            assert output.requires_grad == result.requires_grad
            del output
        assert not lies_in_an_arena(reference(*inputs[0]))


@pytest.mark.parametrize("model", REAL_MODELS, ids=str)
def test_a_steady_inference_causes_no_page_faults(model: RealModel) -> None:
    wrapper = memomalloc.optimize(model.build())
    inputs = model.inputs(0)

    def twenty_runs() -> None:
        for _ in range(20):
            wrapper(*inputs)

    with torch.inference_mode():
        learn(wrapper, *inputs)
        twenty_runs()
        with fully_served(wrapper, runs=20):
            num_faults = minor_faults(twenty_runs)
    # Python objects and oneDNN's own memory come from malloc, whose heap may grow by some pages in some run: less
    # than one fault a run, where a tensor that is not planned would cost one for each page of it in each run.
    assert num_faults < 20


def test_a_steady_inference_of_large_tensors_causes_no_page_faults() -> None:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    inputs = images(0, batch=8, size=96)

    def ten_runs_of(model: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _ in range(10):
            model(inputs)

    with torch.inference_mode():
        learn(wrapper, inputs)
        unwrapped_faults = minor_faults(lambda: ten_runs_of(module))
        wrapped_faults = minor_faults(lambda: ten_runs_of(wrapper))
    assert unwrapped_faults > 1000  # or the test shows nothing
    assert wrapped_faults < 10


def test_training_mode_backward_and_gradients_are_those_of_the_model() -> None:
    reference, module = conv_net().train(), conv_net().train()
    wrapper = memomalloc.optimize(module)
    for seed in range(12):
        for model in (reference, wrapper):
            model.zero_grad(set_to_none=True)
            model(images(seed)).square().sum().backward()
        for expected, actual in zip(reference.parameters(), module.parameters(), strict=True):
            assert_equal_bits(actual.grad, expected.grad)
    assert wrapper.stats().runs_replayed > 0
    assert_equal_bits(module.norm.running_mean, reference.norm.running_mean)


@pytest.mark.parametrize(
    ("kind", "around"),
    [
        pytest.param("module", lambda wrapper: wrapper, id="module"),
        pytest.param("module", lambda wrapper: torch.nn.Sequential(wrapper), id="module_in_a_module"),
        pytest.param("module", lambda wrapper: lambda x: wrapper(x) + 0, id="module_in_a_function"),
        pytest.param("function", lambda wrapper: wrapper, id="function"),
        pytest.param("function", lambda wrapper: lambda x: wrapper(x) + 0, id="function_in_a_function"),
    ],
)
def test_torch_compile_sees_through_a_wrapper(kind: str, around: Callable[[Any], Callable[..., Any]]) -> None:
    torch.compiler.reset()
    module = torch.nn.Sequential(conv_net(), torch.nn.ReLU())
    wrapper = memomalloc.optimize(module if kind == "module" else lambda x: module(x))
    compiled = torch.compile(around(wrapper), backend="eager")
    with torch.inference_mode():
        for seed in range(6):
            assert_equal_bits(compiled(images(seed)), module(images(seed)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", [_trace, _export], ids=["trace", "export"])
def test_a_wrapper_can_be_traced_and_exported(way: Callable[..., Any]) -> None:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    with torch.inference_mode():
        learn(wrapper, images(0))
        made = way(wrapper, (images(0),))
        made = made.module() if isinstance(made, torch.export.ExportedProgram) else made
        assert_equal_bits(made(images(1)), module(images(1)))
