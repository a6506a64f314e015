"""Each recorded tensor says who asked for it: uniquely, and the same in each recording."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import memomalloc
from dynamic_models import PROGRAMS, transformer
from memomalloc.data.trace import Trace
from models import REAL_MODELS, RealModel, conv_net, images

CONV_NET = RealModel("conv_net", conv_net, lambda seed: (images(seed),))
EAGER = (*REAL_MODELS, CONV_NET)


def _record(call: Callable[[], Any]) -> Trace:
    with memomalloc.record() as recording:
        outputs = call()
    del outputs
    return recording.trace


def _two_recordings(call: Callable[[], Any]) -> tuple[Trace, Trace]:
    """Of calls that are warm; the outputs of each are gone before the next."""
    for _ in range(3):
        call()
    return _record(call), _record(call)


def _assert_unique_and_stable(first: Trace, second: Trace) -> None:
    assert len(first) > 0
    assert all(origin is not None and origin.operator for origin in first.origins)
    assert len(set(first.origins)) == len(first)
    assert first.origins == second.origins


@pytest.mark.parametrize("model", EAGER, ids=str)
def test_eager_models(model: RealModel) -> None:
    module, inputs = model.build(), model.inputs(0)
    with torch.inference_mode():
        traces = _two_recordings(lambda: module(*inputs))
    _assert_unique_and_stable(*traces)
    origins = [origin for origin in traces[0].origins if origin is not None]
    assert sum(bool(origin.module_path) for origin in origins) >= 0.95 * len(origins)
    names = {name for name, _ in module.named_modules()} | {type(module).__name__}
    assert {origin.module_path for origin in origins} <= names
    assert all(origin.source is not None for origin in origins)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_dynamic_programs(program: Any) -> None:
    subject, inputs = program.build(), program.inputs(0)
    with torch.enable_grad() if program.grad else torch.inference_mode():
        traces = _two_recordings(lambda: program.call(subject, *inputs))
    _assert_unique_and_stable(*traces)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [CONV_NET, REAL_MODELS[1], REAL_MODELS[4]], ids=str)
def test_torchscript(model: RealModel) -> None:
    inputs = model.inputs(0)
    with torch.inference_mode():
        script = torch.jit.trace(model.build(), inputs, check_trace=False)
        traces = _two_recordings(lambda: script(*inputs))
    _assert_unique_and_stable(*traces)
    origins = [origin for origin in traces[0].origins if origin is not None]
    assert sum(origin.source is not None for origin in origins) >= 0.95 * len(origins)


@pytest.mark.slow
@pytest.mark.parametrize("model", [CONV_NET, REAL_MODELS[4]], ids=str)
def test_torch_compile(model: RealModel) -> None:
    torch.compiler.reset()
    compiled, inputs = torch.compile(model.build()), model.inputs(0)
    with torch.inference_mode():
        traces = _two_recordings(lambda: compiled(*inputs))
    _assert_unique_and_stable(*traces)
    assert any(origin is not None and "inductor::" in origin.operator for origin in traces[0].origins)


class Nested(torch.nn.Module):
    """Calls one module twice, and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torch.nn.Linear(8, 8)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Conv1d(1, 1, 3, padding=1))

    def forward(self, values: torch.Tensor, depth: int = 2) -> torch.Tensor:
        values = self.shared(self.shared(values))
        return self(values, depth - 1) if depth else self.layers(values)


def test_an_origin_names_operators_module_line_and_occurrence() -> None:
    module, values = Nested(), torch.ones(1, 8)
    with torch.inference_mode():
        module(values)
        trace = _record(lambda: module(values))
    linears = [origin for origin in trace.origins if origin.module_path == "shared" and origin.role == "output"]
    assert [origin.occurrence for origin in linears] == list(range(6))
    assert {origin.operators[0] for origin in linears} == {"aten::linear"}
    assert {origin.source.function for origin in linears} == {"Nested.forward"}
    assert linears[0].source.file == __file__
    conv = [origin for origin in trace.origins if origin.module_path == "layers.1"]
    assert conv
    assert conv[0].operators[0] == "aten::conv1d"
    assert len(conv[0].operators) > 1


def test_roles() -> None:
    kept = []
    with memomalloc.record() as recording:
        values = torch.randn(50)
        values.sort()
        kept.append(torch.sin(values))
        del values
    roles = {origin.operator: origin.role for origin in recording.trace.origins}
    assert roles["aten::sin"] == "escape"
    assert recording.trace.buffers[-1].escape
    assert next(o.role for o in recording.trace.origins if "randn" in o.operators[0]) == "output"


def test_memory_of_other_threads_is_told_apart_and_counted() -> None:
    def elsewhere() -> None:
        torch.empty(1000)
        torch.empty(500)

    with memomalloc.record() as recording:
        torch.ones(10)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(recording.trace) == 1
    assert recording.trace.elsewhere_requests == 2
    assert recording.trace.elsewhere_bytes == 6000


def test_hooks_generators_and_autocast_have_origins() -> None:
    module = conv_net()
    hooked = []
    module.first.register_forward_hook(lambda module, inputs, output: hooked.append(output + 1))

    def generate() -> Any:
        for _ in range(2):
            yield module(images(0))

    def call() -> None:
        hooked.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            list(generate())

    with torch.inference_mode():
        _assert_unique_and_stable(*_two_recordings(call))


def test_an_exception_leaves_a_whole_trace() -> None:
    def fail(values: torch.Tensor) -> None:
        torch.sin(values)
        torch.ones(3) @ torch.ones(4)

    values = torch.ones(10)
    recordings = []
    for _ in range(2):
        recordings.append(memomalloc.record())
        with pytest.raises(RuntimeError), recordings[-1]:
            fail(values)
    _assert_unique_and_stable(recordings[0].trace, recordings[1].trace)
    _assert_unique_and_stable(*_two_recordings(lambda: torch.cos(values)))  # and the next ones are as ever


def test_recording_resnet_50_costs_at_most_three_times_a_run() -> None:
    """The target is three times on a quiet machine; the bound leaves room for a noisy one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            module = transformer("ResNetModel")
            image = torch.zeros(1, 3, 224, 224)
            module(image)
            plain_s, recorded_s = [], []
            for _ in range(3):
                began = time.perf_counter()
                module(image)
                middle = time.perf_counter()
                trace = _record(lambda: module(image))
                recorded_s.append(time.perf_counter() - middle)
                plain_s.append(middle - began)
    finally:
        torch.set_num_threads(threads)
    assert len(trace) > 100
    assert min(recorded_s) < 6 * min(plain_s)
