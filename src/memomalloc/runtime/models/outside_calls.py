"""Calls of modules that are planned where they are the outermost ones on their thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.models.planned_model import MethodOf, variant_of
from memomalloc.runtime.switch import switch

if TYPE_CHECKING:
    from memomalloc.runtime.models.entry_points import Listener

#: The attribute of a module that, where it is set, is called in place of what its class says.
COMPILED_CALL = "_compiled_call_impl"
_IGNORED_BY_SCRIPT = "__jit_ignored_attributes__"


class _ThreadState(threading.local):
    inside = False  # a module is being called on this thread: what it calls is part of its plan
    listener: Listener | None = None


thread = _ThreadState()


class OutsideCall:
    """What takes the place of a module's call, and plans it where no other module is being called.

    It is where :meth:`torch.nn.Module.compile` puts a compiled call. Copies and pickles of the module are without it,
    as they are without a compiled call.

    Attributes:
        planned: plans the calls.
    """

    def __init__(self, module: torch.nn.Module, planned: PlannedFunction) -> None:
        self.planned = planned
        self._module = weakref.ref(module)  # the module has this call; a cycle would let it wait for the collector

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        if thread.inside or not switch.on:
            return self.planned.function(*args, **kwargs)
        thread.inside = True
        try:
            return self._call_outermost(args, kwargs)
        finally:
            thread.inside = False

    def _call_outermost(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.planned(args, kwargs, variant=variant_of(self._module()))

    def is_of(self, module: torch.nn.Module) -> bool:
        """Whether it is this module's: the attributes of a module may have been copied over to another one."""
        return self._module() is module

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(None), ()


def own_call(module: torch.nn.Module) -> Callable[..., Any]:
    """The call of a module as it is now, compiled or not, without what plans it."""
    call = module._compiled_call_impl
    if isinstance(call, OutsideCall):
        call = call.planned.function if call.is_of(module) else None
    return call or MethodOf(module, type(module)._call_impl)


def replace_call(module: torch.nn.Module, call: Callable[..., Any] | None) -> None:
    """Let ``module(...)`` be ``call``; None: what the module's class says."""
    # Not module's own __setattr__: a ScriptModule's takes nothing that it does not know.
    object.__setattr__(module, COMPILED_CALL, call)
    # TorchScript would otherwise take it for data of the module, and refuse it.
    ignored = getattr(module, _IGNORED_BY_SCRIPT, ())
    if COMPILED_CALL not in ignored:
        object.__setattr__(module, _IGNORED_BY_SCRIPT, [*ignored, COMPILED_CALL])


def outside_call_of(module: Any) -> OutsideCall | None:
    """What takes the place of a module's call, if it is the module's own."""
    call = getattr(module, "__dict__", {}).get(COMPILED_CALL)
    return call if isinstance(call, OutsideCall) and call.is_of(module) else None
