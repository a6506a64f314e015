"""Calls that may allocate differently have plans of their own; calls that are alike share one."""

from __future__ import annotations

import collections
import dataclasses
import enum
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

import memomalloc
from memomalloc.runtime.calls.signatures import only_on_cpu, signature
from models import chain_values
from serving import assert_equal_bits, fully_served, learn

X = torch.ones(4, 6)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Pair(tuple):
    pass


Named = collections.namedtuple("Named", "a b")


@dataclasses.dataclass
class Batch:
    tokens: torch.Tensor
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class FrozenBatch:
    tokens: torch.Tensor
    scale: float = 1.0


class Opaque:
    pass


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


class RaisingHash:
    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        raise RuntimeError("no hash today")


def _of(*args: Any, **kwargs: Any) -> Any:
    return signature(args, kwargs)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(X, torch.ones(4, 7), id="shape"),
        pytest.param(X, torch.ones(4, 6, 1), id="rank"),
        pytest.param(X, torch.ones(6, 4).t(), id="strides"),
        pytest.param(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), id="layout"),
        pytest.param(X, X.double(), id="dtype"),
        pytest.param(X, X.to("meta"), id="device"),
        pytest.param(X, X.to_sparse(), id="sparse"),
        pytest.param(X, X.clone().requires_grad_(), id="requires_grad"),
        pytest.param(X, torch.nn.Parameter(X.clone(), requires_grad=False), id="class_of_tensor"),
        pytest.param(True, 1, id="true_and_1"),
        pytest.param(1, 1.0, id="1_and_1.0"),
        pytest.param(0, None, id="0_and_none"),
        pytest.param("a", "b", id="text"),
        pytest.param("a", b"a", id="text_and_bytes"),
        pytest.param(torch.float32, torch.float64, id="dtypes"),
        pytest.param(torch.device("cpu"), "cpu", id="device_and_name"),
        pytest.param(Colour.RED, Colour.BLUE, id="enum"),
        pytest.param([X], (X,), id="list_and_tuple"),
        pytest.param((X,), Pair((X,)), id="subclass_of_tuple"),
        pytest.param(Named(1, 2), Named(2, 1), id="namedtuple"),
        pytest.param([X, X], [X], id="length"),
        pytest.param([[X], X], [X, [X]], id="nesting"),
        pytest.param({"a": X}, {"b": X}, id="keys"),
        pytest.param({"a": X}, {"a": X.double()}, id="values"),
        pytest.param({"a": X}, collections.OrderedDict(a=X), id="class_of_mapping"),
        pytest.param(Batch(X), Batch(torch.ones(5)), id="dataclass_tensor"),
        pytest.param(Batch(X), Batch(X, 2.0), id="dataclass_number"),
        pytest.param(FrozenBatch(X), FrozenBatch(torch.ones(5)), id="frozen_dataclass"),
        pytest.param(Opaque(), Unhashable(), id="classes"),
        pytest.param(slice(1), slice, id="instance_and_class"),
    ],
)
def test_different_arguments_have_different_signatures(a: Any, b: Any) -> None:
    assert _of(a) != _of(b)
    assert _of(X, value=a) != _of(X, value=b)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.randn(4, 6), id="tensor"),
        pytest.param(lambda: [torch.randn(4), (torch.randn(3), 1)], id="nested"),
        pytest.param(lambda: {"a": torch.randn(4), 3: "text"}, id="mapping"),
        pytest.param(lambda: Batch(torch.randn(4)), id="dataclass"),
        pytest.param(lambda: FrozenBatch(torch.randn(4)), id="frozen_dataclass"),
        pytest.param(lambda: float("nan"), id="nan"),
        pytest.param(lambda: complex("nan"), id="complex_nan"),
        pytest.param(Opaque, id="object"),
        pytest.param(Unhashable, id="unhashable"),
        pytest.param(RaisingHash, id="raising_hash"),
        pytest.param(lambda: {1, 2}, id="set"),
        pytest.param(lambda: frozenset((1, 2)), id="frozenset"),
        pytest.param(lambda: slice(1, 2), id="slice"),
        pytest.param(lambda: torch.nested.nested_tensor([torch.randn(2), torch.randn(3)]), id="nested_tensor"),
        pytest.param(
            lambda: torch.nested.nested_tensor([torch.randn(2), torch.randn(3)], layout=torch.jagged),
            id="jagged_tensor",
        ),
        pytest.param(lambda: torch.randn(4, 6).to_sparse(), id="sparse"),
        pytest.param(lambda: lambda: 0, id="function"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_like_arguments_have_one_hashable_signature(make: Callable[[], Any]) -> None:
    assert _of(make(), value=make()) == _of(make(), value=make())
    assert hash(_of(make())) == hash(_of(make()))


def test_a_signature_keeps_no_tensor_alive() -> None:
    tensor = torch.randn(4)
    known = _of(tensor, [tensor], {"a": tensor}, Batch(tensor), FrozenBatch(tensor))
    died = weakref.ref(tensor)
    del tensor
    assert died() is None
    assert known is not None


def test_names_count_and_positions_count() -> None:
    assert _of(X, X) != _of(X)
    assert _of(X, a=X) != _of(X, b=X)
    assert _of(X, X) != _of(X, a=X)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast_bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast_float16": lambda: torch.autocast("cpu", torch.float16),
}


def test_modes_of_torch_count() -> None:
    found = []
    for mode in MODES.values():
        with mode():
            found.append(_of(X))
            assert _of(X) == found[-1]
    assert len(set(found)) == len(MODES)


def test_the_number_of_threads_and_the_default_dtype_count() -> None:
    before, num_threads = _of(X), torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads + 1)
        assert _of(X) != before
    finally:
        torch.set_num_threads(num_threads)
    try:
        torch.set_default_dtype(torch.float64)
        assert _of(X) != before
    finally:
        torch.set_default_dtype(torch.float32)
    assert _of(X) == before


@pytest.mark.parametrize(
    ("value", "on_cpu"),
    [
        (X, True),
        (X.to("meta"), False),
        ([X, {"a": (X.to("meta"),)}], False),
        (Batch(X.to("meta")), False),
        ({"a": [X, 3]}, True),
        ("text", True),
    ],
    ids=["cpu", "meta", "nested", "dataclass", "nested_cpu", "text"],
)
def test_tensors_of_other_devices_are_found(value: Any, on_cpu: bool) -> None:
    assert only_on_cpu((value,), {}) == on_cpu
    assert only_on_cpu((), {"value": value}) == on_cpu


# --- Through a wrapper ---------------------------------------------------------------------------------------------


def _scaled(values: Any, factor: Any = 2) -> torch.Tensor:
    tokens = values.tokens if isinstance(values, (Batch, FrozenBatch)) else values
    return torch.sin(tokens) * torch.tensor(factor)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_each_mode_is_learned_and_served_for_itself(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(1000, 8)
    wrapper = memomalloc.optimize(module)
    learn(wrapper, chain_values(0))
    with mode():
        learn(wrapper, chain_values(0))
        expected = module(chain_values(1))
        with fully_served(wrapper, runs=1):
            output = wrapper(chain_values(1))
        assert_equal_bits(output, expected)
    assert len(wrapper.plans) == (1 if mode is nullcontext else 2)


def test_values_that_are_equal_but_of_other_classes_have_plans_of_their_own() -> None:
    wrapper = memomalloc.optimize(_scaled)
    for factor in (True, 1, 1.0):
        learn(wrapper, chain_values(0), factor)
    assert len(wrapper.plans) == 3
    for factor in (True, 1, 1.0):
        with fully_served(wrapper, runs=1):
            output = wrapper(chain_values(1), factor)
        assert_equal_bits(output, _scaled(chain_values(1), factor))


@pytest.mark.parametrize("make", [Batch, FrozenBatch])
def test_dataclasses_that_hold_tensors_share_a_plan(make: Any) -> None:
    wrapper = memomalloc.optimize(_scaled)
    learn(wrapper, make(chain_values(0)))
    with fully_served(wrapper, runs=1):
        wrapper(make(chain_values(1)))
    assert len(wrapper.plans) == 1


def test_tensors_of_another_device_run_unplanned_and_are_counted() -> None:
    wrapper = memomalloc.optimize(_scaled)
    for _ in range(5):
        output = wrapper(chain_values(0).to("meta"), torch.ones((), device="meta").dtype.itemsize)
        assert output.device.type == "meta"
    assert wrapper.stats().runs_unplanned == {"device": 5}
    assert wrapper.plans == ()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_planned() -> None:
    def run(values: torch.Tensor) -> torch.Tensor:
        return (values * 2).to_padded_tensor(0.0)

    nested = torch.nested.nested_tensor([chain_values(0, 100), chain_values(1, 50)])
    wrapper = memomalloc.optimize(run)
    learn(wrapper, nested)
    assert_equal_bits(wrapper(nested), run(nested))
