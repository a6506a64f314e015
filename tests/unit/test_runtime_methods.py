"""Methods that a program calls in place of the model: those named are planned whole, of others what they call."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import logging
import threading
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.runtime.models.entry_points import MAX_INNER_CALLS
from models import chain_values
from serving import assert_equal_bits


class Coder(torch.nn.Module):
    """As autoencoders and encoders of libraries: programs call its methods."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(5, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(values))

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.encoder(values))

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        return self.decoder(values) * 2

    def repeat(self, values: torch.Tensor, times: int = 2) -> torch.Tensor:
        """Call the model itself."""
        for _ in range(times):
            values = self(values)
        return values

    def pieces(self, values: torch.Tensor) -> Any:
        yield self.encode(values)


class Wrapping(torch.nn.Module):
    """Gives the methods of the model inside for its own."""

    def __init__(self, base: Coder) -> None:
        super().__init__()
        self.base = base

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


DRESSES = pytest.mark.parametrize("inplace", [False, True])


def values(seed: int, width: int = 10) -> torch.Tensor:
    return chain_values(seed, 3 * width).reshape(3, width)


def coder() -> Coder:
    return Coder().eval()


@DRESSES
def test_a_named_method_is_planned_whole(inplace: bool) -> None:
    plain, model = coder(), memomalloc.optimize(coder(), methods=["decode", "encode"], inplace=inplace)
    assert inspect.signature(model.decode) == inspect.signature(plain.decode)
    with torch.inference_mode():
        for seed in range(10):
            assert_equal_bits(model.decode(values(seed, 5)), plain.decode(values(seed, 5)))
            assert_equal_bits(model.encode(values(seed)), plain.encode(values(seed)))
    stats = memomalloc.stats(model)
    assert (stats.num_plans, stats.runs_replayed) == (2, 16)
    assert stats.requests_served == stats.requests_planned == 8 * (4 + 6)
    assert len(model.plans) == len(model.traces) == 2
    model.forget()
    assert model.plans == ()


@DRESSES
def test_what_other_methods_call_is_planned(inplace: bool) -> None:
    plain, model = coder(), memomalloc.optimize(coder(), inplace=inplace)
    with torch.inference_mode():
        for seed in range(20):
            assert_equal_bits(model.decode(values(seed, 5)), plain.decode(values(seed, 5)))
    assert memomalloc.stats(model).runs_replayed == 18
    assert memomalloc.stats(model.decoder).runs_replayed == 18
    assert vars(type(model).__mro__[0]).get("decode") is None  # it is the class's own again
    with torch.inference_mode():  # the model as a whole is planned as if there were no such call
        before = memomalloc.stats(model.decoder).runs_replayed
        for seed in range(20):
            assert_equal_bits(model(values(seed)), plain(values(seed)))
        assert memomalloc.stats(model.decoder).runs_replayed == before
    assert memomalloc.stats(model).runs_replayed >= 16 + 16


@DRESSES
def test_a_method_that_calls_the_model_has_its_calls_planned(inplace: bool) -> None:
    plain, model = coder(), memomalloc.optimize(coder(), inplace=inplace)
    with torch.inference_mode():
        for seed in range(10):
            assert_equal_bits(model.repeat(values(seed)), plain.repeat(values(seed)))
    assert memomalloc.stats(model).runs_replayed == 18
    assert not model._planned.inner


@DRESSES
def test_methods_that_the_model_calls_itself_are_its_classs_again(inplace: bool) -> None:
    model = memomalloc.optimize(coder(), inplace=inplace)
    with torch.inference_mode():
        model(values(0))
        assert not model._planned.inner
        for _ in range(MAX_INNER_CALLS):
            model(values(0))
    assert model.encode.__func__ is Coder.encode
    assert model.pieces.__func__ is Coder.pieces
    assert not model._planned.inner


@DRESSES
def test_methods_of_a_model_inside_that_a_wrapper_gives_for_its_own(inplace: bool) -> None:
    plain, model = Wrapping(coder()).eval(), memomalloc.optimize(Wrapping(coder()).eval(), inplace=inplace)
    assert inspect.signature(model.repeat) == inspect.signature(plain.repeat)
    with torch.inference_mode():
        for seed in range(10):
            assert_equal_bits(model.repeat(values(seed)), plain.repeat(values(seed)))
    assert memomalloc.stats(model).runs_replayed == 18
    assert not hasattr(model, "nothing")


@pytest.mark.parametrize("methods", [[], ["decode"]], ids=str)
def test_plans_of_methods_are_saved_copied_and_loaded(methods: list[str]) -> None:
    model = memomalloc.optimize(coder(), methods=methods)
    with torch.inference_mode():
        for seed in range(8):
            model.decode(values(seed, 5))
            model(values(seed))
        assert len(model.plans) == 2
        file = io.BytesIO()
        assert model.save_plans(file) == 2
        loaded = memomalloc.optimize(coder(), methods=methods)
        file.seek(0)
        assert loaded.load_plans(file, strict=True) == 2
        for twin in (loaded, copy.deepcopy(model)):
            for seed in range(3):
                assert_equal_bits(twin(values(seed)), model(values(seed)))
                assert_equal_bits(twin.decode(values(seed, 5)), model.decode(values(seed, 5)))
            assert (twin.stats().runs_replayed, twin.stats().runs_recorded) == (6, 0)


def test_inner_calls_end_with_the_model() -> None:
    plain = coder()
    model = memomalloc.optimize(plain)
    with torch.inference_mode():
        for seed in range(6):
            model.decode(values(seed, 5))
        assert memomalloc.stats(plain.decoder).runs_replayed > 0
        del model
        with pytest.raises(TypeError, match="not optimized"):
            memomalloc.stats(plain.decoder)
        plain.decoder(values(0, 5))


def test_all_of_a_model_has_one_budget() -> None:
    model = memomalloc.optimize(coder(), methods=["encode", "decode"], max_bytes=0)
    with torch.inference_mode():
        for seed in range(8):
            model.encode(values(seed))
            model.decode(values(seed, 5))
    assert model.stats().runs_unplanned["no_arena"] == 12
    assert model.stats().num_arenas == 0


def test_methods_are_listened_to_on_one_thread_only() -> None:
    model, other = memomalloc.optimize(coder()), coder()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            other.decoder(values(0, 5))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for seed in range(30):
            model.decode(values(seed, 5))
    finally:
        stop.set()
        thread.join()
    assert torch.nn.Module.__call__ is torch.nn.Module._wrapped_call_impl
    with pytest.raises(TypeError, match="not optimized"):
        memomalloc.stats(other.decoder)


@pytest.mark.parametrize(
    ("methods", "message"),
    [("decode", "a list of names"), (["missing"], "no method 'missing'"), (["__call__"], "no method '__call__'")],
)
def test_methods_that_cannot_be_planned_are_refused(methods: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memomalloc.optimize(coder(), methods=methods)


def test_methods_are_for_modules() -> None:
    with pytest.raises(ValueError, match="methods are for modules"):
        memomalloc.optimize(lambda x: x, methods=["decode"])


# --- What is said of calls that are not planned --------------------------------------------------------------------


def _events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.memomalloc["event"] for record in caplog.records if record.name == "memomalloc"]


@DRESSES
def test_a_model_that_is_never_called_is_named_once(
    inplace: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memomalloc.runtime.models.usage.MIN_LIFE_S", 0.0)
    plain = torch.nn.Linear(10, 10)
    model = memomalloc.optimize(plain, inplace=inplace)
    model.forward(values(0))
    assert memomalloc.stats(model).served_share is None
    caplog.set_level(logging.WARNING)
    del model, plain
    gc.collect()
    assert _events(caplog) == ["unused"]
    assert "methods=" in caplog.text


@pytest.mark.parametrize("call", [lambda model: model(values(0)), lambda model: model.decode(values(0, 5))])
def test_a_model_that_is_called_is_not(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    for model in (memomalloc.optimize(coder()), copy.deepcopy(memomalloc.optimize(coder()))):
        call(model)
    del model
    gc.collect()
    assert _events(caplog) == []


def test_a_copy_that_is_called_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    model = memomalloc.optimize(coder())
    copied = copy.deepcopy(model)
    for _ in range(6):
        copied(values(0))
    assert memomalloc.stats(model).runs_replayed == 4
    del model, copied
    gc.collect()
    assert "unused" not in _events(caplog)


def test_a_model_that_is_never_planned_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = memomalloc.optimize(torch.nn.Linear(10, 10), shapes="exact")
    for rows in range(250):
        model(torch.zeros(rows + 1, 10))
    assert _events(caplog).count("never_armed") == 1
    assert "shapes='auto'" in caplog.text


@in_child_process()
def test_a_program_that_ends_says_so() -> None:
    import subprocess
    import sys

    text = "import torch, memomalloc; m = memomalloc.optimize(torch.nn.Linear(2, 2)); m.forward(torch.zeros(1, 2))"
    child = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert child.stderr.count("optimized and never called") == 1
