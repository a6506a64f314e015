"""Dressing a module: what ``optimize`` gives back for one is an instance of a class that is made for it alone.

That class is a subclass of the module's own and passes for it: the same name, documentation, ``forward``, signatures;
``model.__class__`` is the module's class. Only calls are different. A *twin* is another object that shares the module's
``__dict__``; *in place*, the module itself is given the class. Whatever saves or scripts the one or the other saves or
scripts the module.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import copyreg
import functools
import inspect
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from memomalloc.runtime.models.entry_points import (
    FirstCalls,
    forwarded_methods,
    listening,
    public_methods,
    stop_listening,
)
from memomalloc.runtime.models.offered import OFFERED, Offer
from memomalloc.runtime.models.planned_model import MethodOf, PlannedModel, planned_model_of, variant_of

#: What a class says about itself, and a subclass does not inherit.
_NOT_INHERITED = (
    "__annotations__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__static_attributes__",
    "__type_params__",
)
#: Methods by which parameters and buffers are changed.
_CHANGING = ("_apply", "apply", "requires_grad_")
_class_of: Any = object.__dict__["__class__"]


class OptimizedModule(torch.nn.Module):
    """What every optimized module is an instance of, besides its own class. Made by :func:`optimize`.

    Copies are optimized, too, and start with the plans there are, as far as they fit. What is pickled or saved is the
    module as it is without memomalloc.
    """

    __slots__ = ()
    _dressed: type[torch.nn.Module] = torch.nn.Module  # the module's own class

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Do nothing: a class that keeps a list of its subclasses is not to hear of these."""

    @property
    def __class__(self) -> type:
        return type(self)._dressed

    @__class__.setter
    def __class__(self, kind: type) -> None:
        # Lazy modules become others, parametrizations derive a class: of the module's own.
        planned = planned_model_of(self)
        shell = _Twin if issubclass(type(self), _Twin) else _InPlace
        if planned is None:
            made = _bare_class(kind, shell)
        else:
            planned.become(kind)
            made = _class_for(self, kind, shell, planned, self._memomalloc_call)
        _class_of.__set__(self, made)

    # --- Copies and pickles ----------------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = undressed(self)
        reduce = copyreg.dispatch_table.get(type(plain))
        return plain.__reduce_ex__(protocol) if reduce is None else reduce(plain)

    def __copy__(self) -> Any:
        return _dressed_like(self, copy.copy(undressed(self)))

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        # What the model holds may refer to it: to its copy then, which is there before what it holds.
        mark = ("memomalloc", id(self))
        if mark in memo:
            return memo[id(memo[mark])]
        plain = memo[mark] = undressed(self)
        if not isinstance(self, _Twin):
            return _dressed_like(self, copy.deepcopy(plain, memo))
        shell: Any = object.__new__(_bare_class(type(plain), _Twin))
        memo[id(self)] = shell
        copied = copy.deepcopy(plain, memo)
        _share_state(shell, copied)
        _class_of.__set__(shell, _bare_class(type(copied), _Twin))
        return _dressed_like(self, copied, shell)

    def __prepare_scriptable__(self) -> Any:
        # TorchScript reads the source of a method, and resolves its names where the function was defined.
        stop_listening(self)
        return self


class _Twin(OptimizedModule):
    """Another object with a module's state. Its plans lie beside that state, not in it."""

    __slots__ = ("_memomalloc_call", "_memomalloc_plans")
    if TYPE_CHECKING:
        _memomalloc_call: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            planned_call = self._memomalloc_call
        except AttributeError:  # made by its class, not by optimize()
            return type(self)._dressed.__call__(self, *args, **kwargs)
        return planned_call(args, kwargs, variant=self.training)


class _InPlace(OptimizedModule):
    """A module that was given another class. Its plans lie in that class, which is its alone."""

    __slots__ = ()
    _memomalloc_call: Callable[..., Any]
    _memomalloc_plans: PlannedModel
    _owner: weakref.ref[torch.nn.Module]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind = type(self)
        if kind._owner() is not self:  # a replica, or made by the class
            return kind._dressed.__call__(self, *args, **kwargs)
        return kind._memomalloc_call(args, kwargs, variant=self.training)


def _call_unusual(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The call of a model that computes its training mode, or has a call of its own, into which no compiler looks."""
    kind = type(self)
    if torch.compiler.is_compiling():
        if _is_compiled(kind._dressed):
            return self._modules["_orig_mod"](*args, **kwargs)
        call = torch.nn.Module if issubclass(kind, torch.fx.GraphModule) else kind._dressed
        return call.__call__(self, *args, **kwargs)
    planned_call: Any = getattr(self, "_memomalloc_call", None)
    if planned_call is None or ("_owner" in vars(kind) and kind._owner() is not self):
        return kind._dressed.__call__(self, *args, **kwargs)
    return planned_call(args, kwargs, variant=variant_of(self))


def _is_compiled(kind: type) -> bool:
    """Whether a class is that of ``torch.compile``'s modules, which is not imported for this question."""
    return kind.__module__.startswith("torch._dynamo.")


def _truth_of_compiled(self: Any) -> bool:
    """That of the module within. torch 2.11's compiler asks for it; a compiled module's own raises without a length."""
    return bool(self._modules["_orig_mod"])


_kind: type[OptimizedModule]
for _kind in (_Twin, _InPlace):
    functools.update_wrapper(_kind.__call__, torch.nn.Module.__call__)
#: Native code makes these calls in the way written here once a model has its dispatcher: csrc/torch/planned_call.cpp.
MODULE_CALLS = (_Twin.__call__, _InPlace.__call__)
# A class with annotations would hide those of the model's class.
for _kind in (OptimizedModule, _Twin, _InPlace):
    if "__annotations__" in vars(_kind):
        del _kind.__annotations__


def _layout_of(model: torch.nn.Module) -> list[Any] | None:
    """What matters to a plan of the parameters and buffers; None: not known."""
    try:
        return [_describe(tensor) for tensor in (*model.parameters(), *model.buffers())]
    except Exception:  # a class may raise anything where it is asked for its parameters
        return None


def _describe(tensor: torch.Tensor) -> Any:
    strides = tensor.stride() if tensor.layout is torch.strided else None
    return type(tensor), tensor.shape, strides, tensor.dtype, tensor.layout, tensor.device, tensor.requires_grad


# --- Classes -------------------------------------------------------------------------------------------------------


def _bare_class(kind: type, shell: type[OptimizedModule], namespace: Mapping[str, Any] | None = None) -> type:
    """A subclass that passes for ``kind``."""
    said = {name: vars(kind)[name] for name in _NOT_INHERITED if name in vars(kind)}
    contents = {**said, "__qualname__": kind.__qualname__, "__slots__": (), "_dressed": kind, **(namespace or {})}
    contents.setdefault("__doc__", None)
    # Not by calling the metaclass, which may keep a list of its classes.
    meta = type(kind)
    new = abc.ABCMeta.__new__ if issubclass(meta, abc.ABCMeta) else type.__new__
    return new(meta, kind.__name__, (shell, kind), contents)


def _class_for(
    model: torch.nn.Module, kind: type, shell: type[OptimizedModule], planned: PlannedModel, planned_call: Any
) -> type:
    """The class of an optimized model whose own class is ``kind``."""
    namespace: dict[str, Any] = {name: Offer(name) for name in OFFERED if not hasattr(kind, name)}
    namespace |= {name: _watched(getattr(kind, name)) for name in _CHANGING}
    if issubclass(kind, torch.fx.GraphModule):
        namespace["recompile"] = _recompile
    if _is_compiled(kind):
        namespace["__bool__"] = _truth_of_compiled
    heard = {**forwarded_methods(model, kind), **public_methods(kind)}
    namespace |= {name: listening(name, function) for name, function in heard.items()}
    namespace |= {name: _planned_method(kind, name) for name in planned.methods}
    if "training" not in model.__dict__ or kind.__call__ is not torch.nn.Module.__call__:
        namespace["__call__"] = _passing_for(kind.__call__, _call_unusual)
    if shell is _InPlace:
        namespace |= {"_owner": weakref.ref(model), "_memomalloc_call": planned_call, "_memomalloc_plans": planned}
    return _bare_class(kind, shell, namespace)


def _passing_for(function: Any, actual: Any) -> Callable[..., Any]:
    """A copy of ``actual`` that has the name and signature of ``function``."""
    copied = types.FunctionType(actual.__code__, actual.__globals__, actual.__name__, closure=actual.__closure__)
    return functools.wraps(function)(copied)


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that may change a model so that its plans do not fit: they are dropped if it does."""

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        planned = planned_model_of(self)
        before = _layout_of(self)
        try:
            return function(self, *args, **kwargs)
        finally:
            if planned is not None and (before is None or before != _layout_of(self)):
                planned.forget()

    return method


@functools.wraps(torch.fx.GraphModule.recompile)
def _recompile(self: Any) -> Any:
    # It gives the generated code to the class of its object: the model's own.
    plain: Any = undressed(self)
    return plain.recompile()


def _planned_method(kind: type, name: str) -> Callable[..., Any]:
    function = _method_of(kind, name)

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        planned = planned_model_of(self)
        if planned is None or torch.compiler.is_compiling():
            return function(self, *args, **kwargs)
        planned.usage.came()
        part = planned.methods[name]
        return part(args, kwargs, variant=part.variant(self))

    return method


def _method_of(kind: type, name: str) -> Callable[..., Any]:
    """A method as a function of the module, also where the module finds it by itself."""
    function = inspect.getattr_static(kind, name, None)
    if inspect.isfunction(function):
        return function

    def found(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(undressed(self), name)(*args, **kwargs)

    found.__name__ = found.__qualname__ = name
    return found


# --- Dressing ------------------------------------------------------------------------------------------------------


def twin_of(module: torch.nn.Module, options: Mapping[str, Any], methods: Sequence[str] = ()) -> torch.nn.Module:
    """Another object that is the module in all but its calls, which are planned.

    Args:
        module: whose state the twin has.
        options: of :class:`PlannedModel`.
        methods: names of methods that are planned, too.
    """
    twin: Any = object.__new__(_bare_class(type(module), _Twin))
    _share_state(twin, module)
    return _dress_twin(twin, options, methods)


def _dress_twin(twin: Any, options: Mapping[str, Any], methods: Sequence[str]) -> torch.nn.Module:
    kind = type(twin)._dressed
    planned, first_calls = _planned_with_first_calls(twin, kind, options, methods)
    object.__setattr__(twin, "_memomalloc_plans", planned)
    object.__setattr__(twin, "_memomalloc_call", first_calls)
    _class_of.__set__(twin, _class_for(twin, kind, _Twin, planned, first_calls))
    return twin  # type: ignore[no-any-return]


def dress_in_place(module: torch.nn.Module, options: Mapping[str, Any], methods: Sequence[str] = ()) -> torch.nn.Module:
    """Let the calls of a module be planned for all who have it; see :func:`twin_of`.

    Raises:
        TypeError: its class has a memory layout of its own.
    """
    kind = type(module)
    planned, first_calls = _planned_with_first_calls(module, kind, options, methods)
    try:
        _class_of.__set__(module, _class_for(module, kind, _InPlace, planned, first_calls))
    except TypeError as error:
        raise TypeError(f"{kind.__name__} cannot be optimized in place; use what optimize() gives back") from error
    # The class is part of a cycle, and waits for the collector; what the plans have does not.
    weakref.finalize(module, planned.forget).atexit = False
    return module


def _planned_with_first_calls(
    model: torch.nn.Module, kind: type, options: Mapping[str, Any], methods: Sequence[str]
) -> tuple[PlannedModel, FirstCalls]:
    planned = PlannedModel(model, kind, **options)
    for name in methods:
        planned.add_method(name, MethodOf(model, _method_of(kind, name)))
    return planned, FirstCalls(planned, functools.partial(_give_way, weakref.ref(model), planned))


def _give_way(reference: weakref.ref[torch.nn.Module], planned: PlannedModel) -> None:
    model = reference()
    if model is not None and issubclass(type(model), _Twin):
        object.__setattr__(model, "_memomalloc_call", planned)
    elif model is not None:
        type.__setattr__(type(model), "_memomalloc_call", planned)


def undressed(model: torch.nn.Module) -> torch.nn.Module:
    """An object of the model's own class with its state."""
    plain: torch.nn.Module = object.__new__(type(model)._dressed)  # type: ignore[attr-defined]
    _share_state(plain, model)
    return plain


def _share_state(target: torch.nn.Module, source: torch.nn.Module) -> None:
    """Let one module have the dictionary of another, and what lies in slots of its class."""
    state = source.__dict__
    _keep_apart_from_its_object(state)
    object.__setattr__(target, "__dict__", state)
    for kind in type(source).__mro__:
        for name, member in vars(kind).items():
            if inspect.ismemberdescriptor(member) and kind is not _Twin:
                with contextlib.suppress(AttributeError, TypeError):  # not set, or not to be set
                    object.__setattr__(target, name, member.__get__(source))


def _keep_apart_from_its_object(attributes: dict[str, Any]) -> None:
    """Have a dictionary hold its values itself.

    Since CPython 3.13 the values of a new object's dictionary lie in the object, and the collector of cycles finds them
    by the object alone: it empties what lies in a dictionary that another object shares, once the first one goes.
    """
    mark = "_memomalloc_shared"
    attributes[mark] = None
    last, value = attributes.popitem()  # takes the values out of the object
    if last != mark:  # another thread came between
        attributes[last] = value
        del attributes[mark]


def _dressed_like(model: torch.nn.Module, copied: torch.nn.Module, shell: Any = None) -> torch.nn.Module:
    """A copy of an optimized model, optimized as it is, with its plans."""
    planned = planned_model_of(model)
    if planned is None:
        return copied
    options, methods = {**planned.options(), "copy_of": planned}, tuple(planned.methods)
    if not issubclass(type(model), _Twin):
        return dress_in_place(copied, options, methods)
    return twin_of(copied, options, methods) if shell is None else _dress_twin(shell, options, methods)
