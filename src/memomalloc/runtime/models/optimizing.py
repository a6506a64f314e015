"""Optimize: a model or a function whose calls are planned, and what can be asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack, overload

import torch

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.planners.registry import find
from memomalloc.runtime import extension
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.calls.shape_policy import POLICIES
from memomalloc.runtime.learning.call_group import MATCHES, PlanSettings
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.memory.armed_plan import ArenaSettings
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.offered import Plans
from memomalloc.runtime.models.optimized_function import OptimizedFunction
from memomalloc.runtime.models.optimized_module import MODULE_CALLS, OptimizedModule, dress_in_place, twin_of
from memomalloc.runtime.models.outside_calls import outside_call_of
from memomalloc.runtime.models.planned_model import planned_model_of, variant_of
from memomalloc.runtime.shipping.plan_shipping import PlansFile
from memomalloc.runtime.shipping.plan_shipping import load_plans as load_saved_plans
from memomalloc.runtime.switch import switch

_Module = TypeVar("_Module", bound=torch.nn.Module)


class Options(TypedDict, total=False):
    """The keyword arguments of :func:`optimize`."""

    example_inputs: Any
    plans: PlansFile | None
    shapes: str
    inplace: bool
    methods: Sequence[str]
    match: str
    planner: str
    time_limit_s: float
    warm_up_calls: int
    max_plans: int
    max_bytes: int | None
    arenas: ArenaSettings
    keep_plans: bool


_LEFT_OUT = object()


# A module is a callable too: mypy is told that the first that fits is meant.
@overload
def optimize(model: _Module, **options: Unpack[Options]) -> _Module: ...  # type: ignore[overload-overlap]
@overload
def optimize(model: Callable[..., Any], **options: Unpack[Options]) -> OptimizedFunction: ...
@overload
def optimize(**options: Unpack[Options]) -> Callable[[Callable[..., Any]], OptimizedFunction]: ...
def optimize(
    model: Any = _LEFT_OUT,
    *,
    example_inputs: Any = None,
    plans: PlansFile | None = None,
    shapes: str = "auto",
    inplace: bool = False,
    methods: Sequence[str] = (),
    match: str = "auto",
    planner: str = "auto",
    time_limit_s: float = 1.0,
    warm_up_calls: int = 1,
    max_plans: int = 64,
    max_bytes: int | None = None,
    arenas: ArenaSettings | None = None,
    keep_plans: bool = False,
) -> Any:
    """Make calls of a model take their tensors from planned memory.

    What comes back is the model in all but its calls: an instance of its class with the same state, which libraries
    inspect, save, copy, script, trace and compile as the model itself.

    It learns while it is used: for each kind of call (shapes, strides, dtypes, devices, grad mode, inference
    mode, autocast, number of threads, other arguments by value) it runs ``warm_up_calls`` calls as they are, records
    one, plans, and serves all later calls from the plan. Results are those of the model, bit for bit. What deviates
    from a plan is served by the allocator that was there before, and counted; a plan from which runs deviate is
    recorded again, and grows by what is new.

    Calls of ``self(...)`` in methods of the model, such as ``generate``, are planned as well, and so are calls of
    modules inside that a public method makes, as ``encode`` and ``decode`` do. To plan all that a method does at once,
    name it in ``methods``. A direct call of ``forward`` is not planned.

    Several threads may call it at once; each running call has a region of memory of its own, which the next one uses
    again, of whatever model. Outputs lie apart, as many as the program holds.

    Example::

        model = memomalloc.optimize(model)
        with torch.inference_mode():
            outputs = model(inputs)

        @memomalloc.optimize(shapes="auto")
        def embed(tokens): ...

    Args:
        model: a module (eager, compiled by ``torch.compile``, TorchScript), an ``ExportedProgram``, or any callable.
            Left out, a decorator is returned.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments. With them the model is
            called here until its plan is ready, under the modes (``torch.inference_mode`` and so on) in force here.
        plans: what ``save_plans`` wrote for the same model, to replay from the first call on. Plans that
            are damaged, or were learned with another model, torch or processor, are refused with a warning in the log,
            and calls are learned as if there were none.
        shapes: which calls share a plan. ``exact``: those that are alike in everything. ``bucketed``: also those whose
            sizes are in the same buckets, 1.5 times apart at most. ``merged``: also those that differ in sizes only;
            the plan grows as larger ones appear. ``auto``: exact for a few fixed shapes; merged where a new one comes
            before the last came again, or where there are more than four.
        inplace: change the model itself, for all who have it, instead of giving back another object that shares its
            state. For modules.
        methods: names of methods whose calls are planned as those of the model, such as ``["decode"]``. For modules.
        match: how a replay tells requests apart. ``size``: by their sizes and order, which costs nothing. ``origin``:
            also by the operators that run, for programs whose branches vary; that costs some 100 ns an operator.
            ``auto``: by origin where recordings differ in more than sizes and too little is served without.
        planner: a registered planner; see ``memomalloc.planners.available()``.
        time_limit_s: wall-clock budget of one planning, in seconds.
        warm_up_calls: calls of one kind before the first is recorded; compilers and oneDNN prepare themselves in them.
        max_plans: kinds of calls that are remembered; the one not used for longest makes room for a new one.
        max_bytes: what calls of the model that run at one time may use together; one for which that is not enough runs
            unplanned. None: what the process may use, see :func:`memomalloc.set_memory_limit`.
        arenas: how its plans are given memory, see :class:`ArenaSettings`.
        keep_plans: keep every plan, whatever it gains. Otherwise one call in a thousand, at most, runs without its plan
            until it is clear what the plan is worth; one with which calls are slower, and which saves no memory worth
            it, is retired: its calls run as if the model were not optimized.

    Returns:
        For a module an instance of its class and of :class:`OptimizedModule`, the model itself if ``inplace``; else an
        :class:`OptimizedFunction`. Each has the attributes of :class:`Plans`, as far as the model has none of the name;
        functions such as :func:`stats` take it in any case.

    Raises:
        TypeError: ``model`` cannot be called, or is optimized already.
        ValueError: an option is out of its range.
        UnknownPlannerError: no planner of that name.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if model is _LEFT_OUT:
        options = locals().copy()
        del options["model"]
        return functools.partial(optimize, **options)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    is_module = isinstance(model, torch.nn.Module)
    if isinstance(model, (OptimizedFunction, OptimizedModule)):
        raise TypeError("the model is optimized already; use the one you have")
    if not callable(model):
        raise TypeError(f"optimize() takes a module or a callable, not {type(model).__name__}")
    if inplace and not is_module:
        raise ValueError("inplace=True is for modules; optimize() returns a wrapper for any other callable")
    methods = _method_names(model, methods)
    for name, value, least in (("warm_up_calls", warm_up_calls, 0), ("max_plans", max_plans, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 0):
        raise ValueError(f"max_bytes must be a number of bytes, not {max_bytes!r}")
    if not time_limit_s >= 0:
        raise ValueError(f"time_limit_s must be a number of seconds, at least 0, not {time_limit_s!r}")
    if shapes not in POLICIES:
        raise ValueError(f"shapes must be one of {', '.join(POLICIES)}, not {shapes!r}")
    if match not in MATCHES:
        raise ValueError(f"match must be one of {', '.join(MATCHES)}, not {match!r}")
    find(planner)  # an unknown name is an error now, not at the first call
    options = {
        "shapes": shapes,
        "settings": PlanSettings(
            planner, time_limit_s, warm_up_calls, match, arenas or ArenaSettings(), keep_plans=keep_plans
        ),
        "max_plans": max_plans,
        "max_bytes": max_bytes,
    }
    if switch.on:
        extension.install().make_calls_natively(*MODULE_CALLS, OptimizedFunction.__call__)
    optimized: Any
    if is_module:
        optimized = (dress_in_place if inplace else twin_of)(model, options, methods)
    else:
        optimized = OptimizedFunction(PlannedFunction(model, **options))
    known = _plans_of(optimized)
    if switch.on and plans is not None:
        load_saved_plans(known._planned, plans, strict=False)
    if switch.on and example_inputs is not None:
        args, kwargs = _as_call(example_inputs)
        known._planned.learn(args, kwargs, variant=variant_of(model) if is_module else None)
    return optimized


def _method_names(model: Any, methods: Sequence[str]) -> tuple[str, ...]:
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list of names, such as [{methods!r}], not a text")
    names = tuple(dict.fromkeys(methods))
    if names and not isinstance(model, torch.nn.Module):
        raise ValueError("methods are for modules; optimize one method of another object: optimize(thing.method)")
    for name in names:
        if not isinstance(name, str) or name.startswith("__") or not callable(getattr(model, name, None)):
            raise ValueError(f"{type(model).__name__} has no method {name!r} that could be planned")
    return names


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


# --- Questions about what is optimized -----------------------------------------------------------------------------


def planned_function_of(model: Any) -> PlannedFunction:
    """What plans the calls of a model or function.

    Raises:
        TypeError: the model is not optimized.
    """
    if isinstance(model, OptimizedFunction):
        return model._planned
    planned = planned_model_of(model)
    call = outside_call_of(model) if planned is None else None
    if planned is None and call is None:
        raise TypeError(f"{type(model).__name__} is not optimized; use what optimize() gave back")
    return planned if call is None else call.planned  # type: ignore[return-value]


def _plans_of(model: Any) -> Plans:
    return Plans(planned_function_of(model), model)


def stats(model: Any = None) -> Stats:
    """Counters of calls, requests and memory.

    Args:
        model: what was optimized, in place or not; None: all of the process, with what is gone.

    Raises:
        TypeError: the model is not optimized.
    """
    return armed_plan.stats() if model is None else _plans_of(model).stats()


def plans(model: Any) -> tuple[Plan, ...]:
    """The plans of a model that are armed; see :attr:`Plans.plans`."""
    return _plans_of(model).plans


def traces(model: Any) -> tuple[Trace, ...]:
    """The traces that the plans of a model were made of; see :attr:`Plans.traces`."""
    return _plans_of(model).traces


def deviations(model: Any) -> tuple[Deviation, ...]:
    """The requests that deviated in the last run that did; see :meth:`Plans.deviations`."""
    return _plans_of(model).deviations()


def save_plans(model: Any, file: PlansFile) -> int:
    """Save the plans of a model that are armed; see :meth:`Plans.save_plans`."""
    return _plans_of(model).save_plans(file)


def load_plans(model: Any, file: PlansFile, *, strict: bool = False) -> int:
    """Let a model replay from plans that were saved; see :meth:`Plans.load_plans`."""
    return _plans_of(model).load_plans(file, strict=strict)


def forget(model: Any) -> None:
    """Drop all plans of a model that was changed without its knowing; see :meth:`Plans.forget`."""
    _plans_of(model).forget()
