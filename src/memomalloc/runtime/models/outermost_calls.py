"""Plan a whole program without changing it: each outermost call of a module by itself."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from memomalloc.runtime import extension
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.learning.call_group import PlanSettings
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.optimized_module import OptimizedModule
from memomalloc.runtime.models.outside_calls import COMPILED_CALL, OutsideCall, own_call, replace_call, thread
from memomalloc.runtime.models.usage import unplanned_text
from memomalloc.runtime.switch import switch

_original_call = torch.nn.Module.__call__
# The first call of a module, before it is optimized, warms up as well.
_OPTIONS: dict[str, Any] = {"shapes": "auto", "settings": PlanSettings(warm_up_calls=1)}


class _Ended:
    """What calls of modules that are gone had learned, if somebody will ask."""

    def __init__(self) -> None:
        self.is_kept = False
        self.learned: list[tuple[str, LearnedCalls]] = []
        self.deviations: list[Deviation] = []
        self.stats: list[tuple[str, Stats]] = []


_ended = _Ended()
_alive: weakref.WeakSet[OutermostCall] = weakref.WeakSet()


class OutermostCall(OutsideCall):
    """The call of a module that was once the outermost one on its thread; planned whenever it is so again."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module, PlannedFunction(own_call(module), **_OPTIONS))
        self._ended = _ended  # for __del__, which may run when globals are gone
        _alive.add(self)

    def learned(self) -> list[tuple[str, LearnedCalls]]:
        """What was learned, with the name of the module."""
        return [(self.planned.name, learned) for learned in self.planned.learned().values()]

    def __del__(self) -> None:
        # The module is gone, or was compiled or copied over.
        if self._ended.is_kept:
            self._ended.learned += self.learned()
            self._ended.deviations += self.planned.deviations()
            self._ended.stats.append((self.planned.name, self.planned.stats()))


def _call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    # First of all, so that a compiler does not look at the rest.
    if torch.compiler.is_compiling() or thread.inside or torch._C._get_tracing_state() is not None:
        return _original_call(module, *args, **kwargs)
    if isinstance(module, OptimizedModule):  # by the program itself: as it says
        return _call_inside(module, args, kwargs)
    call = module._compiled_call_impl
    if not isinstance(call, OutsideCall) or not call.is_of(module):
        if isinstance(call, OutsideCall):  # copied over from another module, which it would call
            replace_call(module, None)
        elif COMPILED_CALL not in module.__dict__:
            replace_call(module, call)  # what it has already, but in its own dictionary: this was the first
            return _call_inside(module, args, kwargs)  # and perhaps the last: programs make modules for one call
        replace_call(module, OutermostCall(module))
    return _original_call(module, *args, **kwargs)


def _call_inside(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module so that what it calls is not planned by itself."""
    thread.inside = True
    try:
        return _original_call(module, *args, **kwargs)
    finally:
        thread.inside = False


def optimize_outermost_calls(*, keep_what_was_learned: bool = False) -> None:
    """From now on, optimize in place each module that is called from outside any other module.

    Shapes are handled as by ``optimize(shapes="auto")``. Does nothing where memomalloc is disabled.

    Args:
        keep_what_was_learned: also of modules that are gone, for :func:`learned`, :func:`deviations` and
            :func:`unplanned_texts`.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if not switch.on:
        return
    extension.install()
    _ended.is_kept = keep_what_was_learned
    torch.nn.Module.__call__ = _call  # type: ignore[method-assign]


def learned() -> list[tuple[str, LearnedCalls]]:
    """What was learned of all modules, with their names."""
    return [*_ended.learned, *(entry for call in list(_alive) for entry in call.learned())]


def deviations() -> list[Deviation]:
    """The first deviating requests of the last run of each plan that had any."""
    return [*_ended.deviations, *(deviation for call in list(_alive) for deviation in call.planned.deviations())]


def unplanned_texts() -> list[str]:
    """Of each module that was called again and never from a plan, and of the program if none was: why, and what to do.

    Those called most come first.
    """
    stats = [*_ended.stats, *((call.planned.name, call.planned.stats()) for call in list(_alive))]
    if not stats and armed_plan.stats().runs_replayed == 0:
        return [_NOTHING_TEXT]
    texts = [
        (sum(one.runs_unplanned.values()), unplanned_text(name, one.runs_unplanned, shapes="auto"))
        for name, one in stats
        if one.runs_replayed == 0 and one.runs_unplanned
    ]
    return [text for _, text in sorted(texts, reverse=True)]


_NOTHING_TEXT = (
    "no module was called from outside any other more than once, so nothing was planned; modules are planned where "
    "they are called as module(...), not by their forward()"
)
