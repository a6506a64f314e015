"""The native description of calls has the classes of equality that its specification in Python has."""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memomalloc.runtime import extension
from memomalloc.runtime.calls.dispatch import dispatcher_of
from memomalloc.runtime.calls.shape_policy import family_of
from memomalloc.runtime.calls.signatures import signature
from memomalloc.runtime.learning.envelope import ROOM_TO_GROW, Envelope

#: Makes a value anew, so that nothing is equal for being the same object.
Recipe = Callable[[], Any]
Call = tuple[tuple[Recipe, ...], dict[str, Recipe]]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Pair(tuple):
    pass


class Text(str):
    pass


@dataclasses.dataclass
class Batch:
    tokens: Any
    scale: Any = 1.0


class Opaque:
    pass


class ByValue:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self.value == other.value

    def __hash__(self) -> int:
        return 7  # so that all of them are compared


Named = collections.namedtuple("Named", "a b")

_SHAPES = [(), (0,), (1,), (3,), (2, 3), (3, 2), (1, 3), (3, 1), (2, 1, 4), (2, 3, 4, 4), (5, 7), (6, 7)]
_dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16])


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, how: str) -> torch.Tensor:
    tensor = torch.zeros(shape, dtype=dtype)
    match how:
        case "transposed":
            return tensor.transpose(0, -1) if shape else tensor
        case "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor
        case "strides":
            return tensor.as_strided(shape, [0] * len(shape)) if tensor.numel() else tensor
        case "size_1":
            return tensor.as_strided(shape, [s + 5 * (n == 1) for s, n in zip(tensor.stride(), shape, strict=True)])
        case "requires_grad":
            return tensor.requires_grad_() if dtype.is_floating_point else tensor
        case "parameter":
            return torch.nn.Parameter(tensor, requires_grad=False)
        case "trained":
            return torch.nn.Parameter(tensor) if dtype.is_floating_point else tensor
        case "meta":
            return tensor.to("meta")
        case "sparse":
            return tensor.to_sparse() if shape else tensor
        case _:
            return tensor


_HOW = [
    "",
    "transposed",
    "channels_last",
    "strides",
    "size_1",
    "requires_grad",
    "parameter",
    "trained",
    "meta",
    "sparse",
]
_tensors: st.SearchStrategy[Recipe] = st.builds(
    lambda shape, dtype, how: lambda: _tensor(shape, dtype, how),
    st.sampled_from(_SHAPES),
    _dtypes,
    st.sampled_from(_HOW),
)

_PLAIN: list[Recipe] = [
    *[lambda value=value: value for value in (None, True, False, 0, 1, 2, 3, 4, 5, -1, 2**31, 2**62, 2**63, -(2**70))],
    *[lambda value=value: value for value in (0.0, -0.0, 1.0, 0.1, float("inf"), float("nan"))],
    *[lambda value=value: value for value in (0j, complex(-0.0, -0.0), 1j, complex("nan"), complex(0, float("nan")))],
    *[lambda value=value: value for value in ("", "a", "b", "ab", "é", "\ud800", "x" * 127, "x" * 200, "y" * 200)],
    *[lambda value=value: value for value in (b"", b"a", b"ab", b"x" * 200, bytearray(b"a"))],
    *[lambda value=value: value for value in (torch.float32, torch.int64, torch.device("cpu"), torch.device("cpu", 0))],
    *[
        lambda value=value: value
        for value in (torch.strided, torch.sparse_coo, torch.channels_last, torch.preserve_format)
    ],
    *[lambda shape=shape: torch.Size(shape) for shape in ((), (1,), (2,), (2, 3))],
    *[lambda value=value: value for value in (Colour.RED, Colour.BLUE, int, float, Opaque, len, Text("a"))],
    Opaque,
    lambda: ByValue(1),
    lambda: ByValue(2),
    lambda: {1, 2},
    lambda: frozenset((1, 2)),
    lambda: slice(1, 2),
    lambda: Opaque().__init__,
]
_values: st.SearchStrategy[Recipe] = st.recursive(
    st.sampled_from(_PLAIN) | _tensors,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: lambda: [make() for make in items]),
        st.lists(inner, max_size=3).map(lambda items: lambda: tuple([make() for make in items])),
        st.lists(inner, max_size=2).map(lambda items: lambda: Pair([make() for make in items])),
        st.tuples(inner, inner).map(lambda items: lambda: Named(*[make() for make in items])),
        st.tuples(inner, inner).map(lambda items: lambda: Batch(*[make() for make in items])),
        st.dictionaries(st.sampled_from(["a", "b", 1, 2.0, None, (1, 2)]), inner, max_size=3).map(
            lambda items: lambda: {key: make() for key, make in items.items()}
        ),
        st.dictionaries(st.sampled_from(["a", 1]), inner, max_size=2).map(
            lambda items: lambda: collections.OrderedDict((key, make()) for key, make in items.items())
        ),
    ),
    max_leaves=5,
)
_calls: st.SearchStrategy[Call] = st.tuples(
    st.lists(_values, max_size=3).map(tuple), st.dictionaries(st.sampled_from(["x", "y"]), _values, max_size=2)
)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Call, Call]:
    """Two calls: any, the same made twice, or the same but for one argument."""
    args, kwargs = draw(_calls)
    other_args, other_kwargs = args, dict(kwargs)
    match draw(st.sampled_from(["any", "same", "one", "order"])):
        case "any":
            other_args, other_kwargs = draw(_calls)
        case "one" if args:
            at = draw(st.integers(0, len(args) - 1))
            other_args = (*args[:at], draw(_values), *args[at + 1 :])
        case "order":
            other_args, other_kwargs = args[::-1], dict(reversed(kwargs.items()))
    return (args, kwargs), (other_args, other_kwargs)


def _made(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = call
    return tuple([make() for make in args]), {name: make() for name, make in kwargs.items()}


class _Owner:
    """Tells the dispatcher that calls like each that it is asked about go straight on."""

    def __init__(self, shapes: str) -> None:
        self.is_family = shapes != "exact"
        self.dispatcher = dispatcher_of(self, lambda *args, **kwargs: None, shapes)
        self.numbers: list[list[int] | None] = []

    def _think(self, call: Any) -> None:
        self.numbers.append(call.numbers)
        if call.numbers is not None:
            self.dispatcher.pass_on(call, object(), "known", self.is_family)
        call()

    def num_known(self) -> int:
        return self.dispatcher.unplanned().get("known", 0)


def _key(shapes: str, args: tuple[Any, ...], kwargs: dict[str, Any], variant: object) -> Any:
    if shapes == "exact":
        return variant, *signature(args, kwargs)
    family, _ = family_of(shapes, args, kwargs)
    return variant, *family


def _sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    _, sizes = family_of("merged", args, kwargs)
    return sizes


@pytest.mark.parametrize("shapes", ["exact", "merged", "bucketed"])
@given(pair=_pairs())
@settings(max_examples=1500, deadline=None)
@example(pair=((((lambda: 1),), {}), (((lambda: True),), {})))
@example(pair=((((lambda: [[], 1]),), {}), (((lambda: [[1]]),), {})))
@example(pair=((((lambda: ("x", 1)),), {}), ((), {"x": lambda: 1})))
def test_two_calls_are_alike_natively_exactly_if_they_are_so_by_the_specification(
    shapes: str, pair: tuple[Call, Call]
) -> None:
    (args, kwargs), (other_args, other_kwargs) = _made(pair[0]), _made(pair[1])
    owner = _Owner(shapes)
    owner.dispatcher.call(args, kwargs, False)
    owner.dispatcher.call(other_args, other_kwargs, False)
    too_large = any(not -(2**63) <= size < 2**63 for size in _sizes(args, kwargs) + _sizes(other_args, other_kwargs))
    if too_large:  # left to Python: never known, and never wrong
        assert owner.numbers.count(None) >= 1
        return
    same = _key(shapes, args, kwargs, False) == _key(shapes, other_args, other_kwargs, False)
    assert owner.num_known() == int(same)
    assert owner.numbers[0] == _sizes(args, kwargs)
    if not same:
        assert owner.numbers[1] == _sizes(other_args, other_kwargs)


@given(
    recorded=st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 60), min_size=3, max_size=3),
)
@settings(max_examples=500, deadline=None)
def test_a_family_serves_the_sizes_that_its_envelope_covers(recorded: list[list[int]], sizes: list[int]) -> None:
    envelope = Envelope()
    for each in recorded:
        envelope.add(each)
    lowest, highest = envelope.bounds
    native = extension.load()
    assert native.covers(list(lowest), list(highest), ROOM_TO_GROW, sizes) == envelope.covers(sizes)


@given(size=st.integers(-5, 2**63 - 1) | st.integers(0, 100) | st.integers(0, 62).map(lambda bit: 2**bit))
@settings(max_examples=500, deadline=None)
def test_sizes_of_a_bucket_are_those_of_the_specification(size: int) -> None:
    owner = _Owner("bucketed")
    owner.dispatcher.call((size,), {}, None)
    for other in (size - 1, size + 1, size * 5 // 4, size * 3 // 4):
        if not -(2**63) <= other < 2**63:
            continue
        before = owner.num_known()
        owner.dispatcher.call((other,), {}, None)
        first, second = (_key("bucketed", (each,), {}, None) for each in (size, other))
        if first == second:
            assert owner.num_known() == before + 1
        # Otherwise it may be known from an earlier one of these.
