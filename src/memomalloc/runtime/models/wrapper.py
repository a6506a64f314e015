"""Optimize: a drop-in for a module or a function, whose calls are planned."""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from memomalloc.runtime.shipping.plan_shipping import PlansFile, load_plans, save_plans
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

#: The attribute of a module that, where it is set, is called in place of what its class says.
COMPILED_CALL = "_compiled_call_impl"
_IGNORED_BY_SCRIPT = "__jit_ignored_attributes__"


class _Planned:
    """What is known of a wrapper's plans."""

    _planned: PlannedFunction

    def stats(self) -> Stats:
        """The counters of this wrapper since it was made."""
        return self._planned.stats()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed."""
        return self._planned.plans

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The traces that the plans were made of, in the order of ``plans``."""
        return self._planned.traces()

    def deviations(self) -> tuple[Deviation, ...]:
        """The requests that deviated in the last run that did, with who was expected to ask; at most 16 a plan."""
        return self._planned.deviations()

    def save_plans(self, file: PlansFile) -> int:
        """Save the plans that are armed, to be shipped with the model, for :func:`optimize` or :meth:`load_plans`.

        Args:
            file: a path, which is replaced atomically, or a binary file to write to.

        Returns:
            How many plans were saved.

        Raises:
            OSError: the file cannot be written.
        """
        return save_plans(self._planned, file)

    def load_plans(self, file: PlansFile, *, strict: bool = False) -> int:
        """Replay from plans that were saved, from the first call on, in place of the plans there are.

        Args:
            file: a path, or a binary file to read from. Nothing in it is trusted: it is checked before it is used.
            strict: raise an error for plans that cannot be used. Otherwise the reason is logged, and the wrapper
                learns as if there were none.

        Returns:
            How many plans were loaded; 0 if they were refused.

        Raises:
            FileFormatError: strict, and it is not a whole, undamaged file of valid plans.
            StalePlansError: strict, and the plans were learned with another model, torch or processor.
        """
        return load_plans(self._planned, file, strict=strict)

    def forget(self) -> None:
        """Drop all plans, for a model that was changed under the wrapper."""
        self._planned.forget()


#: What the wrapper answers itself; everything else is the model's.
_OWN = frozenset(name for name in vars(_Planned) if not name.startswith("_")) | {
    "_orig_mod",
    "_planned",
    "_call_fluent",
    "__class__",
    "__dict__",
    "__deepcopy__",
    "__reduce_ex__",
}


class OptimizedModule(_Planned, torch.nn.Module):
    """A module whose calls are planned, and which otherwise *is* the module: attributes, parameters, methods.

    Made by :func:`optimize`. Reading or setting any attribute, ``state_dict``, ``eval``, ``to`` and all others act
    on the wrapped module, ``_orig_mod``; methods that give back the module give back the wrapper. Only calls
    are different: ``wrapper(...)`` is planned, ``wrapper.forward(...)`` and other methods are not.
    """

    _orig_mod: torch.nn.Module

    def __init__(self, module: torch.nn.Module, planned: PlannedFunction) -> None:
        # Not Module.__init__: the wrapper has no parameters of its own.
        object.__setattr__(self, "_orig_mod", module)
        object.__setattr__(self, "_planned", planned)
        object.__setattr__(self, "_caller", planned.caller())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module. Its training mode is part of what a plan is made for."""
        own = object.__getattribute__(self, "__dict__")
        if torch.compiler.is_dynamo_compiling():
            return own["_orig_mod"](*args, **kwargs)
        return own["_caller"](*args, **kwargs)

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
        return sorted({*dir(self._orig_mod), *dir(_Planned)})

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
        return _wrap, (self._orig_mod, self._planned.options())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Not left to __reduce_ex__: some modules have a __deepcopy__ of their own, which would be found instead.
        return _wrap(copy.deepcopy(self._orig_mod, memo), self._planned.options())


class OptimizedFunction(_Planned):
    """A callable whose calls are planned. Made by :func:`optimize`; attributes are the callable's."""

    def __init__(self, planned: PlannedFunction) -> None:
        object.__setattr__(self, "_planned", planned)
        object.__setattr__(self, "_caller", planned.caller())
        object.__setattr__(self, "__wrapped__", planned.function)
        # What the class has itself, and so does not ask the callable for.
        for name in ("__doc__", "__module__"):
            object.__setattr__(self, name, getattr(planned.function, name, None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if torch.compiler.is_dynamo_compiling():
            return self._planned.function(*args, **kwargs)
        return self._caller(*args, **kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        # As a function: in the body of a class it is a method.
        return self if owner is None else types.MethodType(self, owner)

    def __getattr__(self, name: str) -> Any:
        if name in ("_planned", "_caller"):  # a copy under construction has none yet
            raise AttributeError(name)
        return getattr(self._planned.function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._planned.function, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._planned.function, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._planned.function!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _wrap, (self._planned.function, self._planned.options())


class _CallOf:
    """The call of a module, which does not keep the module alive: a call of it does."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = weakref.ref(module)

    @property
    def __self__(self) -> torch.nn.Module | None:
        return self._module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._module()
        if module is None:
            raise ReferenceError("the module of this call is gone")
        return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]


class InPlaceCall:
    """What takes the place of a module's call when the module is optimized in place.

    Copies and pickles of the module are without it, as they are without a compiled call.
    """

    def __init__(self, module: torch.nn.Module, options: Mapping[str, Any]) -> None:
        # Where torch.nn.Module.compile() puts its compiled call, too; if it was there first, that is what is planned.
        function = module._compiled_call_impl or _CallOf(module)
        self.planned = PlannedFunction(function, model=weakref.ref(module), **options)
        self._caller = self.planned.caller()
        self._module = weakref.ref(module)  # the module has this call; a cycle would let it wait for the collector

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        if torch.compiler.is_dynamo_compiling():
            return self.planned.function(*args, **kwargs)
        return self._caller(*args, **kwargs)

    def is_of(self, module: torch.nn.Module) -> bool:
        """Whether it is this module's: the attributes of a module may have been copied over to another one."""
        return self._module() is module

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(None), ()


def call_in_place(module: torch.nn.Module, call: Callable[..., Any] | None) -> None:
    """Let ``module(...)`` be ``call``; None: what the module's class says."""
    # Not module's own __setattr__: a ScriptModule's takes nothing that it does not know.
    object.__setattr__(module, COMPILED_CALL, call)
    # TorchScript would otherwise take it for data of the module, and refuse it.
    ignored = getattr(module, _IGNORED_BY_SCRIPT, ())
    if COMPILED_CALL not in ignored:
        object.__setattr__(module, _IGNORED_BY_SCRIPT, [*ignored, COMPILED_CALL])


def stats(model: Any = None) -> Stats:
    """Counters of calls, requests and memory.

    Args:
        model: a wrapper, or a module that was optimized in place; None: all of the process, with what is gone.

    Raises:
        TypeError: the model is not optimized.
    """
    if model is None:
        return armed_plan.stats()
    return planned_function_of(model).stats()


def planned_function_of(model: Any) -> PlannedFunction:
    """What plans the calls of a wrapper, or of a module that was optimized in place.

    Raises:
        TypeError: the model is not optimized.
    """
    if isinstance(model, _Planned):
        return model._planned
    call = getattr(model, "_compiled_call_impl", None)
    if isinstance(call, InPlaceCall):
        return call.planned
    raise TypeError(f"{type(model).__name__} is not optimized; without an argument all of the process is meant")


def _variant(model: Any) -> Any:
    """What the plans of a module depend on besides its inputs."""
    return getattr(model, "training", False)


def _wrap(model: Any, options: Mapping[str, Any]) -> Any:
    is_module = isinstance(model, torch.nn.Module)
    planned = PlannedFunction(model, model=model if is_module else None, **options)
    return OptimizedModule(model, planned) if is_module else OptimizedFunction(planned)


class Options(TypedDict, total=False):
    """The keyword arguments of :func:`optimize`."""

    example_inputs: Any
    plans: PlansFile | None
    shapes: str
    inplace: bool
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

    The wrapper learns while it is used: for each kind of call (shapes, strides, dtypes, devices, grad mode, inference
    mode, autocast, number of threads, other arguments by value) it runs ``warm_up_calls`` calls as they are, records
    one, plans, and serves all later calls from the plan. Results are those of the model, bit for bit. What deviates
    from a plan is served by the allocator that was there before, and counted; a plan from which runs deviate is
    recorded again, and grows by what is new.

    Several threads may call it at once; each running call has a region of memory of its own, which the next one uses
    again, of whatever model.

    Outputs have bytes of their own, so that the last may be held while the next is made. Large ones (128 KiB and more)
    that the program gave back before its next call while it was learned share their bytes with other tensors; after the
    first call that finds one alive they have their own.

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
        plans: what ``save_plans`` of a wrapper of the same model wrote, to replay from the first call on. Plans that
            are damaged, or were learned with another model, torch or processor, are refused with a warning in the log,
            and calls are learned as if there were none.
        shapes: which calls share a plan. ``exact``: those that are alike in everything. ``bucketed``: also those whose
            sizes are in the same buckets, 1.5 times apart at most. ``merged``: also those that differ in sizes only;
            the plan grows as larger ones appear. ``auto``: exact for a few fixed shapes; merged where a new one comes
            before the last came again, or where there are more than four.
        inplace: change what ``model(...)`` does instead of returning a wrapper, so that methods of the model that call
            it, such as ``generate``, are planned too. For modules; see :func:`stats` for its counters.
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
            it, is retired: its calls run as if they were not wrapped.

    Returns:
        A drop-in for ``model``: an :class:`OptimizedModule` for a module, else an :class:`OptimizedFunction`; the model
        itself if ``inplace``.

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
    if isinstance(model, _Planned) or (is_module and isinstance(model._compiled_call_impl, InPlaceCall)):
        raise TypeError("the model is optimized already; use the one you have")
    if not callable(model):
        raise TypeError(f"optimize() takes a module or a callable, not {type(model).__name__}")
    if inplace and not is_module:
        raise ValueError("inplace=True is for modules; optimize() returns a wrapper for any other callable")
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
        extension.install()
    if inplace:
        call = InPlaceCall(model, options)
        call_in_place(model, call)
        optimized, planned = model, call.planned
    else:
        optimized = _wrap(model, options)
        planned = optimized._planned
    if switch.on and plans is not None:
        load_plans(planned, plans, strict=False)
    if switch.on and example_inputs is not None:
        args, kwargs = _as_call(example_inputs)
        planned.learn(args, kwargs, variant=_variant(model) if is_module else None)
    return optimized


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
