"""What a plan was learned with: plans of another model, torch or processor are stale."""

from __future__ import annotations

import hashlib
import platform
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch


def fingerprint(function: Callable[..., Any]) -> dict[str, str]:
    """What must be equal where plans are learned and where they are used, by name.

    The number of threads, grad mode and the like are not in it: they belong to each call and are part of its signature.

    - ``model``: a digest of the structure: classes, code of their ``forward``, hyperparameters, and names, shapes and
      dtypes of parameters and buffers; not their values.
    - ``torch``, ``python``: the versions.
    - ``cpu``: the instruction set that torch chose, on which the algorithms of operators depend, and whether oneDNN is
      used.
    """
    digest = hashlib.sha256()
    for line in _describe(function):
        digest.update(line.encode() + b"\n")
    return {
        "model": digest.hexdigest(),
        "torch": str(torch.__version__),
        "python": ".".join(map(str, sys.version_info[:2])),
        "cpu": " ".join(
            (
                platform.machine(),
                torch.backends.cpu.get_cpu_capability(),
                "oneDNN" if torch._C._has_mkldnn and torch.backends.mkldnn.enabled else "no-oneDNN",
            )
        ),
    }


def _describe(function: Callable[..., Any]) -> Iterator[str]:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, weakref.ref):
        owner = owner()
    if isinstance(owner, torch.nn.Module):  # the call of a module that is optimized in place
        function = owner
    if not isinstance(function, torch.nn.Module):
        yield f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
        yield from _describe_code(function)
        return
    for path, module in function.named_modules():
        kind = type(module)
        yield f"{path}: {kind.__module__}.{kind.__qualname__}({_options(module)})"
        yield from _describe_code(kind.forward)
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            yield str(getattr(module, "code", ""))
        named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in named:
            yield f"{path}.{name}: {tuple(tensor.shape)} {tensor.dtype} {tensor.layout} {tensor.device}"


def _options(module: torch.nn.Module) -> str:
    try:
        return module.extra_repr()
    except Exception:  # a user's class: its text for people may raise anything
        return ""


def _describe_code(function: Any) -> Iterator[str]:
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        yield from _describe_instructions(code)


def _describe_instructions(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _describe_instructions(constant)
        elif not isinstance(constant, frozenset):  # whose order differs from process to process
            yield repr(constant)
