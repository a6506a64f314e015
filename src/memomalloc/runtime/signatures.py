"""What a plan depends on: everything about a call that can change which tensors it allocates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch

#: Hashable, and equal for two calls exactly if one plan should serve both.
Signature = tuple[Hashable, ...]

_STRIDED = torch.strided
_PLAIN = frozenset((int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, torch.Size))


def signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """Describe a call: its arguments, and the modes of torch on this thread.

    Tensors count by shape, strides, dtype, device and whether they require a gradient; plain values by value;
    lists, tuples, mappings and dataclasses by what they hold; other objects by value where their class defines
    one, else by their class alone, since each call may bring a new one.
    """
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        *[_describe(value) for value in args],
        *[(name, _describe(value)) for name, value in kwargs.items()],
    )


def _describe(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        if value.is_nested:
            return (type(value), "nested", value.dtype, value.device, value.layout, value.requires_grad)
        strides = value.stride() if value.layout is _STRIDED else None
        return (
            type(value),
            value.shape,
            strides,
            value.dtype,
            value.device,
            value.layout,
            value.requires_grad,
        )
    kind = type(value)
    if kind in _PLAIN:
        # With the class: 1, 1.0 and True are equal. NaN is not even equal to itself.
        return (kind, value if value == value else None)
    if isinstance(value, (list, tuple)):
        return (kind, *[_describe(item) for item in value])
    if isinstance(value, Mapping):
        return (kind, *[(_describe(key), _describe(item)) for key, item in value.items()])
    if hasattr(kind, "__dataclass_fields__"):
        return (kind, *[_describe(getattr(value, name, None)) for name in kind.__dataclass_fields__])
    if getattr(kind, "__hash__", None) not in (None, object.__hash__):
        try:
            hash(value)
        except Exception:  # a user's class: its hash may raise anything
            return (kind,)
        return (kind, value)
    return (kind,)


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
