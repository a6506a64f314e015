"""A model with its inputs, ready to be called, and the ways of running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config as functorch_config

from memomalloc.bench.case import MODES


@dataclass(frozen=True)
class Workload:
    """A model and one call of it.

    Attributes:
        model: a module or any callable.
        inputs: a tensor, a tuple of positional or a mapping of keyword arguments.
    """

    model: Callable[..., Any]
    inputs: Any

    def caller(self, model: Callable[..., Any]) -> Callable[[], Any]:
        """A function without arguments that calls ``model`` (this one's, or another way of running it)."""
        args, kwargs = self.arguments
        return lambda: model(*args, **kwargs)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as positional and keyword arguments."""
        if isinstance(self.inputs, torch.Tensor):
            return (self.inputs,), {}
        if isinstance(self.inputs, Mapping):
            return (), dict(self.inputs)
        return tuple(self.inputs), {}

    def exportable(self) -> tuple[torch.nn.Module, tuple[Any, ...]]:
        """A module that takes positional inputs and returns a tuple of tensors, and these inputs.

        Raises:
            ValueError: this is a callable that is no module.
        """
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError("only a module can be exported")
        args, kwargs = self.arguments
        module = _TensorsOnly(self.model).eval()
        return (module, args) if not kwargs else (_ByPosition(module, tuple(kwargs)).eval(), tuple(kwargs.values()))

    def in_mode(self, mode: str) -> Callable[..., Any]:
        """The model as TorchScript or compiled; compilation itself happens at the first calls.

        Raises:
            ValueError: no such mode, or not for a callable that is no module.
        """
        if mode == "eager":
            return self.model
        if mode == "torchscript":
            return self._traced()
        if mode == "compile":
            return torch.compile(self.model)
        if mode == "compile-memory-planning":
            # Where the environment has CI set, torch takes its warning about custom operators that alias their inputs
            # for an error, and Inductor's own pools are such operators.
            functorch_config.error_on_custom_op_aliasing = False
            return torch.compile(self.model, options={"memory_planning": True})
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")

    def _traced(self) -> Callable[..., Any]:
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError("only a module can be traced for TorchScript")
        module = _TensorsOnly(self.model)
        args, kwargs = self.arguments
        if not kwargs:
            return _traced(module, args)
        # TorchScript takes keyword arguments by the names of the signature, which here is **kwargs.
        names = tuple(kwargs)
        by_position = _traced(_ByPosition(module, names), tuple(kwargs.values()))
        return lambda **inputs: by_position(*(inputs[name] for name in names))


def _traced(module: torch.nn.Module, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    traced: Callable[..., Any] = torch.jit.trace(  # type: ignore[no-untyped-call]
        module, inputs, check_trace=False, strict=False
    )
    return traced


class _TensorsOnly(torch.nn.Module):
    """A module whose outputs are a tuple of tensors, which is all that a trace can return."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(tensors_in(self.module(*args, **kwargs)))


class _ByPosition(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *args: Any) -> Any:
        return self.module(**dict(zip(self.names, args, strict=True)))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in a model's output, in order; it may nest mappings, lists, tuples and objects with attributes."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        return [tensor for item in vars(value).values() for tensor in tensors_in(item)]
    return []


def same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs hold the same tensors, bit for bit (so that NaN equals the same NaN, and 0.0 not -0.0)."""
    left, right = tensors_in(a), tensors_in(b)
    return len(left) == len(right) and all(_same_bits(x, y) for x, y in zip(left, right, strict=True))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(
        a.detach().contiguous().reshape(-1).view(torch.uint8), b.detach().contiguous().reshape(-1).view(torch.uint8)
    )
