"""A fingerprint sees whatever makes a model behave otherwise, and is the same in every process."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from child_process import run_python
from memomalloc.runtime.shipping.fingerprint import fingerprint

SCALE = 1.0


def _model_digest(function: Any) -> str:
    return fingerprint(function)["model"]


def _forward(self: Any, values: torch.Tensor, times: int = 1) -> torch.Tensor:
    self.num_calls += 1
    return self.helper(self.linear(values)) * times


def _helper(self: Any, values: torch.Tensor) -> torch.Tensor:
    return _shifted(values) * SCALE


def _shifted(values: torch.Tensor) -> torch.Tensor:
    return values + 1


def build(**members: Any) -> torch.nn.Module:
    """A model; members of its class may be others."""

    def make(self: Any) -> None:
        torch.nn.Module.__init__(self)
        self.linear = torch.nn.Linear(4, 4)
        self.depth, self.parts, self.num_calls = 2, [1, 2], 0

    kind = type("Net", (torch.nn.Module,), {"__init__": make, "forward": _forward, "helper": _helper, **members})
    return kind()


def _enclosing(factor: float) -> Callable[..., Any]:
    def forward(self: Any, values: torch.Tensor) -> torch.Tensor:
        return self.linear(values) * factor

    return forward


def _with_default(self: Any, values: torch.Tensor, times: int = 2) -> torch.Tensor:
    raise NotImplementedError


_with_default.__code__, _with_default.__qualname__ = _forward.__code__, _forward.__qualname__


def changed(change: Callable[[torch.nn.Module], object]) -> torch.nn.Module:
    model = build()
    change(model)
    return model


OTHERS: dict[str, Callable[[], Any]] = {
    "no_grad": lambda: build(forward=torch.no_grad()(_forward)),
    "inference_mode": lambda: build(forward=torch.inference_mode()(_forward)),
    "enable_grad": lambda: build(forward=torch.enable_grad()(_forward)),
    "another helper": lambda: build(helper=lambda self, values: values - 1),
    "a helper that is a property": lambda: build(helper=property(lambda self: _shifted)),
    "a closure": lambda: build(forward=_enclosing(2)),
    "another closure": lambda: build(forward=_enclosing(3)),
    "another default": lambda: build(forward=_with_default),
    "a hook": lambda: changed(lambda model: model.register_forward_hook(lambda *_: None)),
    "a hook before": lambda: changed(lambda model: model.register_forward_pre_hook(lambda *_: None)),
    "a hook of a part": lambda: changed(lambda model: model.linear.register_forward_hook(lambda *_: None)),
    "another hook": lambda: changed(lambda model: model.register_forward_hook(lambda *_: torch.ones(1))),
    "an attribute": lambda: changed(lambda model: setattr(model, "depth", 3)),
    "a new attribute": lambda: changed(lambda model: setattr(model, "flag", True)),
    "an entry of a list": lambda: changed(lambda model: model.parts.append(3)),
    "a forward of its own": lambda: changed(
        lambda model: setattr(model, "forward", types.MethodType(lambda self, values: values, model))
    ),
    "a partial": lambda: functools.partial(build(), times=1),
    "another partial": lambda: functools.partial(build(), times=2),
    "another shape": lambda: changed(lambda model: setattr(model, "linear", torch.nn.Linear(4, 5))),
}


def test_each_difference_is_seen() -> None:
    digests = {name: _model_digest(make()) for name, make in {"the model": build, **OTHERS}.items()}
    assert len(set(digests.values())) == len(digests)
    assert digests == {name: _model_digest(make()) for name, make in {"the model": build, **OTHERS}.items()}


def test_what_a_helper_calls_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _model_digest(build())
    monkeypatch.setitem(globals(), "_shifted", lambda values: values + 2)
    other_function = _model_digest(build())
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert len({before, other_function, _model_digest(build())}) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.eval(),
        lambda model: model(torch.ones(2, 4)),  # counts its calls
        lambda model: model.linear.weight.data.add_(1),
        lambda model: setattr(model, "num_calls", 77),
    ],
)  # fmt: skip
def test_states_are_no_difference(change: Callable[[torch.nn.Module], object]) -> None:
    assert _model_digest(changed(change)) == _model_digest(build())


def test_where_files_lie_is_no_difference() -> None:
    here = changed(lambda model: setattr(model, "folder", "/here/model"))
    there = changed(lambda model: setattr(model, "folder", "/there/x/model"))
    assert _model_digest(here) == _model_digest(there)


def test_functions_are_told_apart() -> None:
    assert _model_digest(_helper) != _model_digest(_shifted)
    assert _model_digest(_shifted) == _model_digest(_shifted)


def test_it_is_the_same_in_every_process() -> None:
    pytest.importorskip("transformers")
    program = """
        import torch
        from transformers import BertConfig, BertModel
        from memomalloc.runtime.shipping.fingerprint import fingerprint
        sizes = dict(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9)
        model = BertModel(BertConfig(num_hidden_layers=1, **sizes)).eval()
        before = fingerprint(model)["model"]
        model(torch.ones(1, 3, dtype=torch.long))
        assert fingerprint(model)["model"] == before
        print(before)
    """
    children = [run_python(program, env={"PYTHONHASHSEED": str(seed)}) for seed in (1, 2)]
    assert [child.returncode for child in children] == [0, 0], children[0].stderr
    assert children[0].stdout == children[1].stdout
