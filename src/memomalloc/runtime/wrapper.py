"""Optimize: a drop-in for a module or a function, whose calls are planned."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import torch

from memomalloc.data.plan import Plan
from memomalloc.planners.registry import find
from memomalloc.runtime import extension
from memomalloc.runtime.planned_function import PlannedFunction
from memomalloc.runtime.statistics import Stats
from memomalloc.runtime.switch import switch

_Module = TypeVar("_Module", bound=torch.nn.Module)

#: Methods of a module that give the module back. Those in the first set change what a plan was made for.
_CHANGING = frozenset(
    (
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "cpu",
        "cuda",
        "to_empty",
        "requires_grad_",
        "type",
        "apply",
    )
)
_FLUENT = _CHANGING | frozenset(("eval", "train", "share_memory"))

#: What the wrapper answers itself; everything else is the model's.
_OWN = frozenset(
    (
        "_orig_mod",
        "_planned",
        "_call_fluent",
        "stats",
        "plans",
        "forget",
        "__class__",
        "__dict__",
        "__deepcopy__",
        "__reduce_ex__",
    )
)


class OptimizedModule(torch.nn.Module):
    """A module whose calls are planned, and which otherwise *is* the module: attributes, parameters, methods.

    Made by :func:`optimize`. Reading or setting any attribute, ``state_dict``, ``eval``, ``to`` and all others act
    on the wrapped module, ``_orig_mod``; methods that give back the module give back the wrapper. Only calls
    are different: ``wrapper(...)`` is planned, ``wrapper.forward(...)`` and other methods are not.
    """

    _orig_mod: torch.nn.Module
    _planned: PlannedFunction

    def __init__(self, module: torch.nn.Module, planned: PlannedFunction) -> None:
        # Not Module.__init__: the wrapper has no parameters of its own.
        object.__setattr__(self, "_orig_mod", module)
        object.__setattr__(self, "_planned", planned)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module. Its training mode is part of what a plan is made for."""
        own = object.__getattribute__(self, "__dict__")
        return own["_planned"](args, kwargs, variant=getattr(own["_orig_mod"], "training", False))

    def stats(self) -> Stats:
        """The counters of this wrapper since it was made."""
        return self._planned.stats()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed, one for each signature that was learned."""
        return self._planned.plans

    def forget(self) -> None:
        """Drop all plans, for a module that was changed under the wrapper."""
        self._planned.forget()

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        value = getattr(self._orig_mod, name)
        if name in _FLUENT and callable(value):
            return functools.partial(self._call_fluent, name, value)
        return value

    def _call_fluent(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if name in _CHANGING:
            self.forget()
        return self if result is self._orig_mod else result

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._orig_mod, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._orig_mod, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._orig_mod), "stats", "plans", "forget"})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._orig_mod!r})"

    def __len__(self) -> int:
        return len(self._orig_mod)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self._orig_mod)

    def __getitem__(self, key: Any) -> Any:
        return self._orig_mod[key]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._orig_mod)  # type: ignore[call-overload,no-any-return]

    def __contains__(self, item: Any) -> bool:
        return item in self._orig_mod  # type: ignore[operator]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy, or a loaded pickle, is a wrapper that learns its own plans.
        return _optimize_again, (self._orig_mod, self._planned.options())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Not left to __reduce_ex__: some modules have a __deepcopy__ of their own, which would be found instead.
        return _optimize_again(copy.deepcopy(self._orig_mod, memo), self._planned.options())


class OptimizedFunction:
    """A callable whose calls are planned. Made by :func:`optimize`; attributes are the callable's."""

    _planned: PlannedFunction

    def __init__(self, planned: PlannedFunction) -> None:
        object.__setattr__(self, "_planned", planned)
        object.__setattr__(self, "__wrapped__", planned.function)
        # What the class has itself, and so does not ask the callable for.
        for name in ("__doc__", "__module__"):
            object.__setattr__(self, name, getattr(planned.function, name, None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._planned(args, kwargs)

    def stats(self) -> Stats:
        """The counters of this wrapper since it was made."""
        return self._planned.stats()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed, one for each signature that was learned."""
        return self._planned.plans

    def forget(self) -> None:
        """Drop all plans, for a function that does something else from now on."""
        self._planned.forget()

    def __getattr__(self, name: str) -> Any:
        if name == "_planned":  # a copy under construction has none yet
            raise AttributeError(name)
        return getattr(self._planned.function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._planned.function, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._planned.function, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._planned.function!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _optimize_again, (self._planned.function, self._planned.options())


def _optimize_again(model: Any, options: Mapping[str, Any]) -> Any:
    return optimize(model, **options)


# A module is a callable too: mypy is told that the first that fits is meant.
@overload
def optimize(  # type: ignore[overload-overlap]
    model: _Module,
    *,
    example_inputs: Any = ...,
    planner: str = ...,
    time_limit_s: float = ...,
    warm_up_calls: int = ...,
    max_plans: int = ...,
) -> _Module: ...
@overload
def optimize(
    model: Callable[..., Any],
    *,
    example_inputs: Any = ...,
    planner: str = ...,
    time_limit_s: float = ...,
    warm_up_calls: int = ...,
    max_plans: int = ...,
) -> OptimizedFunction: ...
def optimize(
    model: Any,
    *,
    example_inputs: Any = None,
    planner: str = "auto",
    time_limit_s: float = 1.0,
    warm_up_calls: int = 2,
    max_plans: int = 64,
) -> Any:
    """Make calls of a model take their tensors from planned memory.

    The wrapper learns while it is used: for each kind of call (shapes, strides, dtypes, devices, grad mode, inference
    mode, autocast, number of threads, other arguments by value) it runs ``warm_up_calls`` calls as they are, records
    until two recordings agree, plans, and serves all later calls from the plan. Results are those of the model, bit
    for bit. What deviates from a plan is served by the allocator that was there before, and counted.

    Several threads may call it at once; each running call has an arena of its own.

    Example::

        model = memomalloc.optimize(model)
        with torch.inference_mode():
            outputs = model(inputs)

    Args:
        model: a module (eager, compiled by ``torch.compile``, TorchScript), an ``ExportedProgram``, or any callable.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments. With them the model is
            called here until its plan is ready, under the modes (``torch.inference_mode`` and so on) in force here.
        planner: a registered planner; see ``memomalloc.planners.available()``.
        time_limit_s: wall-clock budget of one planning, in seconds.
        warm_up_calls: calls of one kind before the first is recorded; compilers and oneDNN prepare themselves in them.
        max_plans: kinds of calls that are remembered; the one not used for longest makes room for a new one.

    Returns:
        A drop-in for ``model``: an :class:`OptimizedModule` for a module, else an :class:`OptimizedFunction`.

    Raises:
        TypeError: ``model`` cannot be called, or is wrapped already.
        ValueError: an option is out of its range.
        UnknownPlannerError: no planner of that name.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if isinstance(model, (OptimizedModule, OptimizedFunction)):
        raise TypeError("the model is optimized already; use the wrapper you have")
    if not callable(model):
        raise TypeError(f"optimize() takes a module or a callable, not {type(model).__name__}")
    for name, value, least in (("warm_up_calls", warm_up_calls, 0), ("max_plans", max_plans, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if not time_limit_s >= 0:
        raise ValueError(f"time_limit_s must be a number of seconds, at least 0, not {time_limit_s!r}")
    find(planner)  # an unknown name is an error now, not at the first call
    planned = PlannedFunction(
        model, planner=planner, time_limit_s=time_limit_s, warm_up_calls=warm_up_calls, max_plans=max_plans
    )
    is_module = isinstance(model, torch.nn.Module)
    if switch.on:
        extension.install()
        if example_inputs is not None:
            args, kwargs = _as_call(example_inputs)
            planned.learn(args, kwargs, variant=getattr(model, "training", False) if is_module else None)
    return OptimizedModule(model, planned) if is_module else OptimizedFunction(planned)


def _as_call(example_inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return tuple(example_inputs), {}
    raise TypeError(
        "example_inputs is a tensor, a tuple of positional arguments or a mapping of keyword arguments, "
        f"not {type(example_inputs).__name__}"
    )
