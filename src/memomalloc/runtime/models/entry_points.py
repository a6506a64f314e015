"""Find what is called of a model from outside, besides the model itself.

A program calls ``vae.decode(x)`` or ``encoder.encode(sentences)``. Such a method takes other things than tensors, and
does as much as it likes, so it is no unit to plan; the modules inside that it calls are. While a public method of an
optimized model runs for the first times, calls of modules are listened to on its thread: the outermost ones are
planned from then on, wherever they are outermost. After so many calls a method is that of the model's class again,
and costs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from memomalloc.runtime import extension
from memomalloc.runtime.models.outside_calls import COMPILED_CALL, OutsideCall, own_call, replace_call, thread
from memomalloc.runtime.models.planned_model import PlannedModel, PlannedPart, planned_model_of
from memomalloc.runtime.switch import switch

#: So many calls of a method are listened to.
MAX_HEARD_CALLS = 8
#: So many calls of a method by the model itself, while it is called, show that nobody else calls it.
MAX_INNER_CALLS = 1000
#: Classes of these packages have no methods of their own that run a model.
_NO_ENTRIES = ("builtins.", "torch.")
#: So many modules inside are planned by themselves.
MAX_INNER = 64


class InnerCall(OutsideCall):
    """The call of a module inside an optimized one, planned where it is not part of a planned call."""

    planned: PlannedPart

    def _call_outermost(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if extension.install().is_running():
            return self.planned.function(*args, **kwargs)
        return self.planned(args, kwargs, variant=self.planned.variant(self._module()))


class FirstCalls:
    """The first calls of a model: enough that the methods of which it is made of are known from those called outside.

    Takes the place of its :class:`PlannedModel` and gives way to it, so that no later call pays for it.
    """

    def __init__(self, planned: PlannedModel, give_way: Callable[[], None]) -> None:
        self._planned = planned
        self._left = planned.settings.warm_up_calls + 3  # and two are recorded; replayed ones are known as such
        self._give_way = give_way

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, variant: Any) -> Any:
        """Call the model, see :meth:`PlannedFunction.__call__`."""
        if torch.compiler.is_compiling():
            return self._planned.function(*args, **kwargs)
        self._planned.usage.came()
        self._left -= 1
        if self._left <= 0:
            self._give_way()
        was_inside, thread.inside = thread.inside, True
        try:
            return self._planned(args, kwargs, variant=variant)
        finally:
            thread.inside = was_inside


# --- Methods -------------------------------------------------------------------------------------------------------


def public_methods(kind: type) -> dict[str, Callable[..., Any]]:
    """The methods that a class of modules has beyond what every module has, but for its ``forward``."""
    methods: dict[str, Callable[..., Any]] = {}
    for base in kind.__mro__:
        if f"{base.__module__}.".startswith(_NO_ENTRIES):
            continue
        for name, value in vars(base).items():
            if _may_run_the_model(name) and name not in methods:
                methods[name] = value
    return {name: value for name, value in methods.items() if _returns_when_done(value)}


def _may_run_the_model(name: str) -> bool:
    return not name.startswith("_") and not hasattr(torch.nn.Module, name)


def _returns_when_done(value: Any) -> bool:
    return inspect.isfunction(value) and not (
        inspect.isgeneratorfunction(value) or inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
    )


def forwarded_methods(module: torch.nn.Module, kind: Any) -> dict[str, Callable[..., Any]]:
    """The methods of modules inside that a module gives for its own, by a ``__getattr__`` of its class."""
    if kind.__getattr__ is torch.nn.Module.__getattr__ or issubclass(kind, torch.jit.ScriptModule):
        return {}
    methods: dict[str, Callable[..., Any]] = {}
    for inner in {type(inner) for inner in module.modules()}:
        for name in public_methods(inner):
            if name in methods or hasattr(kind, name):
                continue
            value = getattr(module, name, None)
            if inspect.ismethod(value) and isinstance(value.__self__, torch.nn.Module):
                methods[name] = _forwarding(kind, name, value.__func__)
    return methods


def _forwarding(kind: Any, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return kind.__getattr__(self, name)(*args, **kwargs)

    # The signature is that of the bound method, which is not bound to self.
    method.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return method


def listening(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that listens to what it calls; see :func:`stop_listening`."""
    heard_left, inner_left = MAX_HEARD_CALLS, MAX_INNER_CALLS

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal heard_left, inner_left
        if torch.compiler.is_compiling() or not switch.on or torch._C._get_tracing_state() is not None:
            return function(self, *args, **kwargs)
        if thread.inside or extension.install().is_running():
            inner_left -= 1
            if inner_left <= 0:
                _stop(type(self), name)
            return function(self, *args, **kwargs)
        planned = planned_model_of(self)
        if planned is None or thread.listener is not None:
            return function(self, *args, **kwargs)
        heard_left -= 1
        if heard_left <= 0:
            _stop(type(self), name)
        with Listener(self, planned).listen():
            return function(self, *args, **kwargs)

    method.__dict__[_LISTENS] = True
    return method


_LISTENS = "_memomalloc_listens"


def _listens(value: Any) -> bool:
    return inspect.isfunction(value) and _LISTENS in vars(value)


def _stop(kind: type, name: str) -> None:
    if _listens(vars(kind).get(name)):
        with contextlib.suppress(AttributeError):  # another thread was faster
            delattr(kind, name)


def stop_listening(module: torch.nn.Module) -> None:
    """Let the methods of an optimized model be those of its class again."""
    for name in list(vars(type(module))):
        _stop(type(module), name)


# --- Calls of modules ----------------------------------------------------------------------------------------------


class Listener:
    """Plans the modules inside a model that are called outermost on this thread while a method of the model runs."""

    def __init__(self, model: torch.nn.Module, planned: PlannedModel) -> None:
        self._model = model
        self._planned = planned

    @functools.cached_property
    def _paths(self) -> dict[int, str]:
        return {id(module): path for path, module in self._model.named_modules() if path}

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Hear of the calls of modules on this thread."""
        thread.listener = self
        _ear.open()
        try:
            yield
        finally:
            _ear.close()
            thread.listener = None

    def hear(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A module is called: plan its calls, if it is one inside the model, and call it."""
        if module is self._model:
            thread.inside = True
            try:
                return _ear.call(module, *args, **kwargs)
            finally:
                thread.inside = False
        self._planned.usage.came()
        path = self._paths.get(id(module))
        if path is not None and COMPILED_CALL not in module.__dict__ and len(self._planned.inner) < MAX_INNER:
            reference = weakref.ref(module)
            part = self._planned.add_inner(path, own_call(module), functools.partial(_restore, reference))
            replace_call(module, InnerCall(module, part))
        return _ear.call(module, *args, **kwargs)


def _restore(reference: weakref.ref[torch.nn.Module]) -> None:
    module = reference()
    if module is not None and isinstance(module.__dict__.get(COMPILED_CALL), InnerCall):
        del module.__dict__[COMPILED_CALL]


class _Ear:
    """Hears calls of modules while somebody listens. Others may replace ``torch.nn.Module.__call__`` as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_open = 0
        self.call: Callable[..., Any] = torch.nn.Module.__call__

    def open(self) -> None:
        with self._lock:
            self._num_open += 1
            if torch.nn.Module.__call__ is not _hear:
                self.call = torch.nn.Module.__call__
                torch.nn.Module.__call__ = _hear  # type: ignore[method-assign]

    def close(self) -> None:
        with self._lock:
            self._num_open -= 1
            if self._num_open == 0 and torch.nn.Module.__call__ is _hear:
                torch.nn.Module.__call__ = self.call  # type: ignore[method-assign]


_ear = _Ear()


def _hear(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling() or thread.listener is None or thread.inside:
        return _ear.call(module, *args, **kwargs)
    return thread.listener.hear(module, args, kwargs)
