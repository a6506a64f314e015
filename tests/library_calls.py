"""What is asked of a model of a library, whatever the library: the results that it has without, from plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

import memomalloc
from dynamic_models import served_share_between
from serving import assert_equal_bits

#: Calls in which a kind of call is learned, and the calls that are compared after them.
TO_LEARN = 12
COMPARED = 20
SERVED = 0.95


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a result, whatever class the library gives it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif hasattr(value, "__array__"):
        yield torch.as_tensor(value)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))


def assert_same(actual: Any, expected: Any) -> None:
    """All tensors of two results are equal, bit for bit, and there are some."""
    pairs = list(zip(tensors_in(actual), tensors_in(expected), strict=True))
    assert pairs
    for one, other in pairs:
        assert_equal_bits(one, other)


def assert_as_plain(
    plain: Callable[[int], Any], optimized: Callable[[int], Any], model: Any, *, to_learn: int = TO_LEARN
) -> None:
    """Call both with the same numbers; all results are held, and are equal in the end; nearly all is served.

    Args:
        plain: a call of the model as it is, with inputs made of a number.
        optimized: the same call of the optimized one.
        model: what :func:`memomalloc.stats` is asked about.
        to_learn: calls before.
    """
    for number in range(to_learn):
        assert_same(optimized(number), plain(number))
    before = memomalloc.stats(model)
    held = [(optimized(number), plain(number)) for number in range(COMPARED)]
    after = memomalloc.stats(model)
    for actual, expected in held:
        assert_same(actual, expected)
    assert after.runs_replayed > before.runs_replayed
    assert served_share_between(before, after) >= SERVED
