"""A model of the user's: any function that returns a model and its inputs."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memomalloc.bench.model import Model
from memomalloc.bench.workload import Workload
from memomalloc.errors import MemomallocError

#: What the function may ask for; it is given those of them that it has parameters for.
_OFFERED = ("batch", "input_size")


class UserModelError(MemomallocError, ValueError):
    """The user's function cannot be found, or does not return a model with inputs."""


def user_models(references: Sequence[str]) -> dict[str, Model]:
    """The models of all references by name: that of the function, or the whole reference where two are called alike.

    Raises:
        UserModelError: a function cannot be found, or none is named.
    """
    if not references:
        raise UserModelError("a model of your own is given as --model module:function")
    models = {reference: user_model(reference) for reference in references}
    times = Counter(model.name for model in models.values())
    return {(model.name if times[model.name] == 1 else reference): model for reference, model in models.items()}


def user_model(reference: str) -> Model:
    """The model that ``module:function`` builds.

    The function returns a model (a module or any callable) and its inputs (a tensor, a tuple of positional or a
    mapping of keyword arguments). It may have parameters ``batch`` and ``input_size``. Modules in the current
    folder are found.

    Raises:
        UserModelError: there is no such function.
    """
    module_name, colon, function_name = reference.partition(":")
    if not colon or not module_name or not function_name:
        raise UserModelError(f"a model of your own is given as module:function, not {reference!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UserModelError(f"cannot find {reference}: {error}") from error
    if not callable(function):
        raise UserModelError(f"{reference} is no function")
    return Model(function_name, lambda batch, size: _build(reference, function, batch, size), (224,))


def _build(reference: str, function: Callable[..., Any], batch: int, size: int) -> Workload:
    wanted = inspect.signature(function).parameters
    offered = dict(zip(_OFFERED, (batch, size), strict=True))
    made = function(**{name: value for name, value in offered.items() if name in wanted})
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]):
        raise UserModelError(f"{reference} must return a model and its inputs")
    model, inputs = made
    if isinstance(model, torch.nn.Module):
        model.eval()
    return Workload(model, inputs)
