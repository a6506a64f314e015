"""What a plan depends on: everything about a call that can change which tensors it allocates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MethodType
from typing import Any

import torch

#: Hashable, and equal for two calls exactly if one plan should serve both.
Signature = tuple[Hashable, ...]

_STRIDED = torch.strided
_PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.qscheme)
_PLAIN = frozenset((int, float, str, bool, bytes, complex, type(None), *_PLAIN_OF_TORCH))


class Kind:
    """A signature as a key of dictionaries.

    Its hash is taken once: the program may change an object in it afterwards, so that it has another hash, or none.

    Attributes:
        signature: what it is a key of.
    """

    __slots__ = ("_hash", "signature")

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._hash = hash(signature)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self.signature == other.signature)


def signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """Describe a call exactly: its arguments, and the modes of torch on this thread.

    Tensors count by shape, strides, dtype, device and whether they require a gradient; plain values by value;
    lists, tuples, mappings and dataclasses by what they hold; other objects by value where their class defines
    one, else by their class alone, since each call may bring a new one.
    """
    return (
        *_modes(),
        *[describe(value) for value in args],
        *[(name, describe(value)) for name, value in kwargs.items()],
    )


class Sizes:
    """The numbers of a call that vary from call to call, taken out of its signature: dimensions and whole numbers.

    Attributes:
        values: in the order in which they were met.
    """

    def __init__(self, bucket: Callable[[int], Hashable]) -> None:
        """Start without numbers; ``bucket`` says what remains of each of them in the signature."""
        self.values: list[int] = []
        self._bucket = bucket

    def take(self, value: int) -> Hashable:
        """Note a number, and say what remains of it."""
        self.values.append(value)
        return self._bucket(value)


def family(args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: Sizes) -> Signature:
    """Describe a call as :func:`signature` does, but for its sizes, which go to ``sizes``, and its other numbers.

    Of strides it keeps whether the tensor is contiguous.
    """
    return (
        *_modes(),
        *[describe(value, sizes) for value in args],
        *[(name, describe(value, sizes)) for name, value in kwargs.items()],
    )


def _modes() -> Signature:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )


def describe(value: Any, sizes: Sizes | None = None) -> Hashable:
    """What counts about one value; with ``sizes``, its numbers go there."""
    if isinstance(value, torch.Tensor):
        return _describe_tensor(value, sizes)
    kind = type(value)
    if kind in _PLAIN:
        if sizes is not None and kind is int:
            return (kind, sizes.take(value))
        if sizes is not None and kind is float:  # a time step, a scale: no tensor's size
            return (kind,)
        # With the class: 1, 1.0 and True are equal. NaN is not even equal to itself.
        return (kind, value if value == value else None)
    if isinstance(value, (list, tuple)):
        return (kind, *[describe(item, sizes) for item in value])
    if isinstance(value, Mapping):
        return (kind, *[(describe(key), describe(item, sizes)) for key, item in value.items()])
    if hasattr(kind, "__dataclass_fields__"):
        return (kind, *[describe(getattr(value, name, None), sizes) for name in kind.__dataclass_fields__])
    if kind is MethodType:  # equal only for one object, which would live as long as the plan
        return (kind, value.__func__)
    if getattr(kind, "__hash__", None) not in (None, object.__hash__):
        try:
            hash(value)
        except Exception:  # a user's class: its hash may raise anything
            return (kind,)
        return (kind, value)
    return (kind,)


def _describe_tensor(value: torch.Tensor, sizes: Sizes | None) -> Hashable:
    kind, dtype, device, layout, grad = type(value), value.dtype, value.device, value.layout, value.requires_grad
    if value.is_nested:
        return (kind, "nested", dtype, device, layout, grad)
    if sizes is not None:
        contiguous = layout is _STRIDED and value.is_contiguous()
        return (kind, tuple([sizes.take(size) for size in value.shape]), contiguous, dtype, device, layout, grad)
    return (kind, value.shape, value.stride() if layout is _STRIDED else None, dtype, device, layout, grad)


def only_on_cpu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether all tensors among the arguments are ordinary tensors in the memory of the CPU."""
    return all(_on_cpu(value) for value in args) and all(_on_cpu(value) for value in kwargs.values())


def _on_cpu(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.device.type == "cpu"
    if isinstance(value, (list, tuple)):
        return all(_on_cpu(item) for item in value)
    if isinstance(value, Mapping):
        return all(_on_cpu(item) for item in value.values())
    if hasattr(type(value), "__dataclass_fields__"):
        return all(_on_cpu(getattr(value, name, None)) for name in type(value).__dataclass_fields__)
    return True
