"""Plan a whole program without changing it: each outermost call of a module by itself."""

from __future__ import annotations

import threading
from typing import Any

import torch

from memomalloc.runtime import extension
from memomalloc.runtime.call_group import PlanSettings
from memomalloc.runtime.switch import switch
from memomalloc.runtime.wrapper import InPlaceCall, call_in_place


class _ThreadState(threading.local):
    inside = False  # a module is being called on this thread: what it calls is part of its plan


_thread = _ThreadState()
_original_call = torch.nn.Module.__call__
_OPTIONS = {"shapes": "auto", "settings": PlanSettings()}


class OutermostCall(InPlaceCall):
    """The call of a module that was once the outermost one on its thread; planned whenever it is so again."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        if _thread.inside:
            return self.planned.function(*args, **kwargs)
        _thread.inside = True
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _thread.inside = False


def _call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    if (
        not _thread.inside
        and module._compiled_call_impl is None
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
    ):
        call_in_place(module, OutermostCall(module, _OPTIONS))
    return _original_call(module, *args, **kwargs)


def optimize_outermost_calls() -> None:
    """From now on, optimize in place each module that is called from outside any other module.

    Shapes are handled as by ``optimize(shapes="auto")``. Does nothing where memomalloc is disabled.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if not switch.on:
        return
    extension.install()
    torch.nn.Module.__call__ = _call  # type: ignore[method-assign]
